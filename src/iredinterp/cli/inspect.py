"""`iredinterp inspect`: what a checkpoint file is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from iredinterp.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from iredinterp.ired.checkpoint import Checkpoint
    from iredinterp.ired.model import EnergyMLP

CONFIGFILE = "config/config.yaml"


@click.command()
@click.argument("path", metavar="CKPT", type=click.Path())
@click.option("--weights", type=click.Choice(["ema", "raw"]), help="Which; ema if the file has them.")
@click.option(
    "--configfile", type=click.Path(), default=CONFIGFILE, show_default=True, help="Where problems are named."
)
def inspect(path, weights, configfile) -> None:
    """What a checkpoint is, and how to analyse it.

    The problems that it fits are found by sizes alone, those it was trained on first if the file says. No
    file of the official code does. No code from the file is executed.
    """
    found = every_weights(path)
    if weights and weights not in found:
        raise CheckpointError(
            f"{path}: expected {weights} weights, found {', '.join(found)}; leave --weights out"
        )
    checkpoint = found[weights or next(iter(found))]
    fitting = fitting_problems(checkpoint, configfile)
    facts = {
        "file": path,
        "format": "safetensors of this package" if path.endswith(".safetensors") else "official .pt",
        "sha256": checkpoint.sha256,
        "step": f"{checkpoint.step:,}",
        "weights": f"{', '.join(found)} (shown: {checkpoint.weights})",
        "sizes": sizes(checkpoint.model),
        "levels": levels(checkpoint.model),
        "fits": ", ".join(fitting) or f"no problems of {configfile}; add its distribution there, as NAME",
        **training(checkpoint),
    }
    for name, fact in facts.items():
        click.echo(f"{name:<9} {fact}")
    click.echo("\nTo analyse it, a --configfile of these lines:\n")
    click.echo(configuration(path, checkpoint.weights, next(iter(fitting), "NAME")), nl=False)
    if len(fitting) > 1 and not recorded_problems(checkpoint):
        click.echo(f"\nof the problems that fit ({', '.join(fitting)}), name those that it was trained on")


def every_weights(path: str) -> dict[str, Checkpoint]:
    """What a file holds, by the kind of weights.

    Raises:
        CheckpointError: it holds neither kind.
    """
    from iredinterp.ired.checkpoint import WEIGHTS, load_checkpoint

    found, errors = {}, []
    for kind in WEIGHTS:
        try:
            found[kind] = load_checkpoint(path, kind)
        except CheckpointError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def sizes(model: EnergyMLP) -> str:
    """d_x, d, h and how many parameters."""
    count = sum(value.numel() for value in model.parameters.values())
    precision = str(model.dtype).removeprefix("torch.")
    return f"d_x = {model.dim_x}, d = {model.dim_y}, h = {model.hidden}; {count:,} parameters in {precision}"


def levels(model: EnergyMLP) -> str:
    """How many, and whether they are those of the official code."""
    import torch

    from iredinterp.ired.schedule import cosine_schedule

    found, official = model.schedule, cosine_schedule().betas
    same = found.levels == len(official) and torch.allclose(found.betas.double(), official, atol=1e-6)
    ends = f"σ from {found.sigma[-1]:.3f} to {found.sigma[0]:.3f}"
    return f"{found.levels}, {'the official schedule' if same else 'NOT the official schedule'}, {ends}"


def recorded_problems(checkpoint: Checkpoint) -> dict:
    """The distribution that the file says it was trained on, or nothing."""
    return checkpoint.record.get("recipe", {}).get("problems", {})


def fitting_problems(checkpoint: Checkpoint, configfile: str) -> list[str]:
    """Names of the problems of a configuration whose sizes are the network's, those on record first.

    Raises:
        ConfigError: the configuration cannot be read.
        TaskError: it defines impossible problems.
    """
    from iredinterp.ired.tasks import ProblemSpec

    try:
        problems = yaml.safe_load(Path(configfile).read_text())["problems"].items()
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        if configfile == CONFIGFILE and not Path(configfile).exists():
            return []
        raise ConfigError(f"{configfile}: no problems can be read from it: {error!r}") from None
    specs = {name: ProblemSpec.from_dict(entry) for name, entry in problems}
    size = (checkpoint.model.dim_x, checkpoint.model.dim_y)
    fitting = [name for name, spec in specs.items() if (spec.dim_x, spec.dim_y) == size]
    return sorted(fitting, key=lambda name: specs[name].to_dict() != recorded_problems(checkpoint))


def training(checkpoint: Checkpoint) -> dict[str, str]:
    """What the file says of how it came to be."""
    record = checkpoint.record
    if not record:
        return {"training": "the file does not say"}
    shown = {key: value for key, value in record.items() if key not in ("recipe", "planted")}
    for key in ("recipe", "planted"):
        if key in record:
            values = {name: value for name, value in record[key].items() if name != "spectrum"}
            shown[key] = yaml.safe_dump(values, default_flow_style=True, width=10_000).strip()
    return {key: str(value) for key, value in shown.items()}


def configuration(path: str, weights: str, problems: str) -> str:
    """The lines under which the workflow analyses a checkpoint."""
    entry = {"checkpoint": path, "problems": problems} | ({"weights": "raw"} if weights == "raw" else {})
    model = {"models": {"mine": entry}, "select": ["mine"]}
    return yaml.safe_dump(model, default_flow_style=None, sort_keys=False, width=10_000, allow_unicode=True)
