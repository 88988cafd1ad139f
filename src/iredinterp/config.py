"""What a JSON schema cannot say of the configuration: names defined elsewhere, and what they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from iredinterp.errors import ConfigError

CONDITIONS = (
    "trained",
    "random_init",
    "permuted_weights",
    "shuffled_x",
    "permuted_targets",
    "oracle",
    "oracle_noise",
)
# Numbers that need not be whole. JSON schemas take 5.0 for an integer, and NaN for within any bounds.
REAL = {
    "kappa",
    "observed",
    "noise",
    "l1",
    "learning_rate",
    "radii",
    "ema_decay",
    "clip",
    "floor",
    "tolerance",
    "radius",
    "spurious",
    "extent",
    "shares",
    "threshold",
    "reach",
    "gradient",
    "hessian",
    "isotropy",
    "inertia",
    "single",
    "right",
}

# Networks that the workflow trains, when their path is given as a checkpoint.
TRAINED_HERE = re.compile(r"results/networks/(?P<recipe>.+)-seed(?P<seed>\d+)\.safetensors")


def typed(value):
    """Numbers, truth values and null instead of their texts, anywhere in a value of Snakemake's --config.

    Snakemake reads `key=number` as a number, and every value inside braces or brackets as text.

    Args:
        value: text, or lists and mappings of it.
    """
    if isinstance(value, Mapping):
        return {key: typed(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [typed(entry) for entry in value]
    if not isinstance(value, str):
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read if read is None or isinstance(read, int | float) else value


def check_config(config: Mapping) -> None:
    """Refuse a configuration whose parts do not fit together.

    Args:
        config: valid by the schema, defaults filled in.

    Raises:
        ConfigError: names the key, what was found and what is defined.
    """
    for key, value in _leaves(config):
        real = key.rpartition(".")[2] in REAL
        if isinstance(value, float) and not (real and math.isfinite(value)):
            allowed = "a finite number" if real else "an integer, without a decimal point"
            raise ConfigError(f"{key}: found {value}; write {allowed}")
    for name, problem in config["problems"].items():
        _check_problem(f"problems.{name}", problem)
    for section in ("models", "training"):
        for name, entry in config[section].items():
            _require(entry["problems"], config["problems"], f"{section}.{name}.problems", "problems")
    for analysis in ("implicit_bias", "ntk", "difference"):
        for name in config[analysis]["course"]["recipes"]:
            _require(name, config["training"], f"{analysis}.course.recipes", "training")
    for family, entry in config["models"].items():
        for key in ("checkpoint", "permuted"):
            path = entry[key]
            if path is not None and ("{seed}" in path) != bool(entry["seeds"]):
                raise ConfigError(
                    f"models.{family}.{key}: found {path!r} with seeds {entry['seeds']}; write {{seed}} in "
                    f"the path exactly if models.{family}.seeds lists training seeds"
                )
    sae = config["sae"]
    if sae["activation"] != "relu_l1" and max(sae["k"]) > min(sae["widths"]):
        raise ConfigError(
            f"sae.k: found {max(sae['k'])} latents in use of {min(sae['widths'])} (sae.widths); lower k or "
            "raise the width"
        )
    radii = config["grassmann"]["radii"]
    if radii != sorted(radii):
        raise ConfigError(f"grassmann.radii: found {radii}; write them in ascending order")
    models = expanded_models(config)
    for name in selected_models(config):
        family = models[name]["replicate"]["family"]
        for condition, path in models[name]["checkpoint"].items():
            if family in config["models"]:
                key = "permuted" if condition == "permuted_targets" else "checkpoint"
                _check_checkpoint(f"models.{family}.{key}", path, config["training"])
    for pair in config["difference"]["pairs"]:
        _check_pair(pair, models, config)


def expanded_models(config: Mapping) -> dict[str, dict]:
    """The models of a configuration, one checkpoint each.

    Args:
        config: valid by the schema, defaults filled in.

    Returns:
        By name, `NAME` or, of a family of training seeds, `NAME-seedS`: `replicate` (its family, and its
        seed or None if the configuration does not say), `problems`, `spec` (what that name stands for),
        `weights`, `checkpoint` (the file each defined condition starts from), `conditions` (those that the
        figures show), `reference` (the oracle, if it is defined), `partner` (the trained checkpoint of the
        first other seed of its family, if there is one) and `paired` (the conditions that are compared with
        it).
        Every entry of `problems` has its planted network among them.
    """
    models = {}
    chosen = config["figures"]["conditions"]
    shown = CONDITIONS if chosen is None else {"trained", *chosen}
    for family, entry in config["models"].items():
        defined = [name for name in CONDITIONS if not undefined_condition(name, family, config)]
        for seed in entry["seeds"] or [None]:
            paths = {
                name: entry["permuted" if name == "permuted_targets" else "checkpoint"] for name in defined
            }
            name = family if seed is None else f"{family}-seed{seed}"
            if name in models:
                raise ConfigError(f"models.{family}.seeds: there is another model {name}; rename one of them")
            models[name] = {
                "replicate": {"family": family, "seed": seed},
                "problems": entry["problems"],
                "spec": config["problems"][entry["problems"]],
                "weights": entry["weights"],
                "checkpoint": {name: path.replace("{seed}", str(seed)) for name, path in paths.items()},
                "conditions": [name for name in defined if name in shown],
                "reference": [name for name in defined if name == "oracle"],
            }
    for problems in config["problems"]:
        name = planted_model(problems)
        if name in models:
            raise ConfigError(
                f"models.{name}: this name is taken by the planted network of {problems}; rename it"
            )
        models[name] = {
            "replicate": {"family": name, "seed": config["planted"]["seed"]},
            "problems": problems,
            "spec": config["problems"][problems],
            "weights": "ema",
            "checkpoint": {"trained": f"results/planted/{problems}.safetensors"},
            "conditions": ["trained"],
            "reference": [],
        }
    families: dict[str, list[str]] = {}
    for name, entry in models.items():
        families.setdefault(entry["replicate"]["family"], []).append(name)
    for name, entry in models.items():
        others = [other for other in families[entry["replicate"]["family"]] if other != name]
        entry["partner"] = [models[other]["checkpoint"]["trained"] for other in others[:1]]
        entry["paired"] = ["trained"] * len(entry["partner"])
    return models


def selected_models(config: Mapping) -> list[str]:
    """Names of the models that `select` names, itself or by their family; all checkpoints if it is empty.

    Raises:
        ConfigError: `select` names what is not defined.
    """
    family = {name: entry["replicate"]["family"] for name, entry in expanded_models(config).items()}
    for name in config["select"]:
        _require(name, {*family, *family.values()}, "select", "models")
    wanted = set(config["select"] or config["models"])
    return sorted(name for name in family if {name, family[name]} & wanted)


def planted_model(problems: str) -> str:
    """Name of the planted network on which analyses of these problems are calibrated."""
    return f"planted-{problems}"


def undefined_condition(condition: str, family: str, config: Mapping) -> str:
    """Why a family of models cannot be put under a condition, or nothing if it can.

    Args:
        condition: one of `CONDITIONS`.
        family: a name under `models`.
        config: valid by the schema, defaults filled in.
    """
    model = config["models"][family]
    if condition == "permuted_targets" and model["permuted"] is None:
        return (
            f"models.{family}.permuted is not set: train on permuted targets (training.*.permuted) and give "
            "the checkpoints"
        )
    problem = config["problems"][model["problems"]]
    intractable = problem["task"] == "completion" and (problem["noise"] > 0 or (problem["rank"] or 1) > 1)
    if condition.startswith("oracle") and intractable:
        return "no computable reference for completion of rank 2 or more, or from noisy entries"
    return ""


def _leaves(value, key: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of everything that is set."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{key or 'top level'}: found the name {name!r}; put it in quotes")
            yield from _leaves(entry, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(entry, key)
    else:
        yield key, value


def _check_problem(key: str, problem: Mapping) -> None:
    """Refuse what a distribution of problems cannot have together, as `ProblemSpec` would in every job."""
    task, n, rank, kappa = (problem[name] for name in ("task", "n", "rank", "kappa"))
    if rank is not None and (task != "completion" or rank > n):
        raise ConfigError(f"{key}.rank: found {rank}; only completion has a rank, of at most n = {n}")
    if kappa is not None and task != "inverse":
        raise ConfigError(f"{key}.kappa: found {kappa}; only inverse has a condition number: leave kappa out")
    if problem["ood"] and (rank, kappa) != (None, None):
        raise ConfigError(
            f"{key}.ood: found true; only distributions without rank and kappa have an ood variant"
        )
    for name, fixed in (("factors", "normal"), ("observed", 0.5), ("noise", 0)):
        if rank is None and problem[name] != fixed:
            raise ConfigError(
                f"{key}.{name}: found {problem[name]}; it is {fixed} where no rank is given: leave it out"
            )


def _check_pair(pair: Sequence[str], models: Mapping[str, Mapping], config: Mapping) -> None:
    """Refuse two models that are not there, or not for the same problems."""
    for name in pair:
        _require(name, models, "difference.pairs", "models")
        family = models[name]["replicate"]["family"]
        if family in config["models"]:
            path = models[name]["checkpoint"]["trained"]
            _check_checkpoint(f"models.{family}.checkpoint", path, config["training"])
    first, second = (models[name]["problems"] for name in pair)
    if first != second:
        raise ConfigError(
            f"difference.pairs: {pair[0]} is for the problems {first}, {pair[1]} for {second}; compare two "
            "models for the same problems"
        )


def _check_checkpoint(key: str, path: str, recipes: Mapping) -> None:
    """Refuse a path at which there is no checkpoint, unless a recipe makes it."""
    if network := TRAINED_HERE.fullmatch(path):
        _require(network["recipe"], recipes, key, "training")
        seeds = recipes[network["recipe"]]["seeds"]
        if int(network["seed"]) not in seeds:
            raise ConfigError(
                f"{key}: {path!r} is trained with none of the seeds {seeds}; add the seed to "
                f"training.{network['recipe']}.seeds"
            )
    elif not Path(path).is_file():
        raise ConfigError(
            f"{key}: no file {path!r}; give the path of a checkpoint, absolute or relative to the folder "
            "snakemake runs in, or results/networks/RECIPE-seedS.safetensors for a network that a recipe "
            "under training makes"
        )


def _require(name: str, defined, key: str, section: str) -> None:
    if name not in defined:
        raise ConfigError(
            f"{key}: {name!r} is not defined under {section}; defined are {', '.join(sorted(defined))}"
        )
