"""The configuration, its schema and its manual say the same; names that lead nowhere are refused."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from snakemake.utils import validate

from iredinterp.config import (
    CONDITIONS,
    check_config,
    expanded_models,
    selected_models,
    typed,
    undefined_condition,
)
from iredinterp.errors import ConfigError, TaskError
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.truth.oracle import BayesOracle

ROOT = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text())
FAMILY = "inverse-n5"
NETWORK = "results/networks/{}-seed{}.safetensors"
MANUAL = (ROOT / "config/README.md").read_text()


def leaves(schema, prefix=()):
    """(dotted key, its schema, whether it must be given) of every value a user can set."""
    for name, entry in schema.get("properties", {}).items():
        required = name in schema.get("required", [])
        yield from leaves_below(entry, (*prefix, name), required)


def leaves_below(entry, path, required):
    if "properties" in entry:
        yield from leaves(entry, path)
    elif isinstance(entry.get("additionalProperties"), dict):
        yield from leaves(entry["additionalProperties"], (*path, "*"))
    else:
        yield ".".join(path), entry, required
        if "properties" in entry.get("items", {}):
            yield from leaves(entry["items"], (*path, "*"))


LEAVES = list(leaves(SCHEMA))


def documented():
    rows = re.findall(r"^\| `([\w.*]+)` \| (.+?) \| (.+) \|$", MANUAL, re.MULTILINE)
    return {key: (default, meaning) for key, default, meaning in rows}


def test_the_schema_is_valid_and_accepts_the_default_configuration():
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(CONFIG)


def test_every_key_of_the_schema_is_in_the_manual_with_its_default_and_no_other():
    manual = documented()
    assert set(manual) == {key for key, _, _ in LEAVES}
    for key, entry, required in LEAVES:
        stated = manual[key][0]
        expected = (
            "required"
            if required
            else f"`{yaml.safe_dump(entry['default'], default_flow_style=True).split(chr(10))[0]}`"
        )
        assert stated == expected, key


def test_every_key_of_the_schema_has_a_description():
    def visit(entry, path):
        if path and path[-1] != "*" and path[-1] != "items":
            assert entry.get("description"), ".".join(path)
        for name, child in entry.get("properties", {}).items():
            visit(child, (*path, name))
        for nested in ("additionalProperties", "items"):
            if isinstance(entry.get(nested), dict) and "properties" in entry[nested]:
                visit(entry[nested], (*path, "*"))

    visit(SCHEMA, ())


def test_every_default_value_a_user_sees_is_the_schema_default():
    for section in ("sampling", "points", "hessian", "competence"):
        for key, value in CONFIG[section].items():
            assert value == SCHEMA["properties"][section]["properties"][key]["default"], f"{section}.{key}"


def test_every_key_of_the_schema_is_read_by_a_rule():
    # What the models of a family are is worked out in one place, for all rules.
    rules = (ROOT / "src/iredinterp/config.py").read_text()
    rules += "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    for section, entry in SCHEMA["properties"].items():
        whole = re.search(rf'config\["{section}"\](?!\[)|entry\("{section}/\{{\w+\}}"', rules)
        for key in entry.get("properties", {}):
            assert whole or f'config["{section}"]["{key}"]' in rules, f"{section}.{key}"
        assert whole or f'config["{section}"]' in rules or f'"{section}/' in rules, section


def filled(**changes):
    """The default configuration with changes, every default of the schema in its place."""
    config = copy.deepcopy(CONFIG) | changes
    validate(config, ROOT / "workflow/schemas/config.schema.yaml")
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"models": {"mine": {"checkpoint": "a.pt", "problems": "other"}}},
            "models.mine.problems: 'other' is not",
        ),
        (
            {"training": {"mine": CONFIG["training"][FAMILY] | {"problems": "other"}}},
            "training.mine.problems: 'other' is not",
        ),
        ({"select": ["mine"]}, "select: 'mine' is not defined under models; defined are addition-n5"),
        ({"sae": {"k": [4, 200]}}, "sae.k: found 200 latents in use of 100 (sae.widths)"),
        (
            {"models": {"mine": {"checkpoint": "a.pt", "problems": FAMILY}}, "select": []},
            "models.mine.checkpoint: no file 'a.pt'",
        ),
        (
            {
                "models": {FAMILY: CONFIG["models"][FAMILY] | {"permuted": "b-{seed}.pt"}},
                "select": [FAMILY],
            },
            "models.inverse-n5.permuted: no file 'b-0.pt'",
        ),
        (
            {"models": {"mine": {"checkpoint": "a.pt", "seeds": [1], "problems": FAMILY}}},
            "models.mine.checkpoint: found 'a.pt' with seeds [1]; write {seed} in the path exactly if",
        ),
        (
            {"models": {"mine": {"checkpoint": "a-{seed}.pt", "problems": FAMILY}}},
            "models.mine.checkpoint: found 'a-{seed}.pt' with seeds []",
        ),
        (
            {
                "models": {"mine": {"checkpoint": NETWORK.format("other", 0), "problems": FAMILY}},
                "select": [],
            },
            "models.mine.checkpoint: 'other' is not defined under training",
        ),
        (
            {"models": {"mine": {"checkpoint": NETWORK.format(FAMILY, 8), "problems": FAMILY}}, "select": []},
            "is trained with none of the seeds [0, 1, 2, 3, 4, 5, 6, 7]; add the seed to training.inverse-n5.seeds",
        ),
        (
            {
                "models": {
                    "planted-inverse-n5": CONFIG["models"][FAMILY]
                    | {"seeds": [], "checkpoint": "a.pt", "permuted": None}
                }
            },
            "models.planted-inverse-n5: this name is taken by the planted network of inverse-n5",
        ),
        (
            {"implicit_bias": {"course": {"recipes": [FAMILY, "other"]}}},
            "implicit_bias.course.recipes: 'other' is not defined under training",
        ),
        (
            {"difference": {"pairs": [["inverse-n5-seed0", "other"]]}},
            "difference.pairs: 'other' is not defined under models",
        ),
        (
            {"difference": {"pairs": [["inverse-n5-seed0", "addition-n5-seed0"]]}},
            "difference.pairs: inverse-n5-seed0 is for the problems inverse-n5, addition-n5-seed0 for addition-n5",
        ),
        (
            {
                "models": CONFIG["models"] | {"mine": {"checkpoint": "a.pt", "problems": FAMILY}},
                "difference": {"pairs": [["inverse-n5-seed0", "mine"]]},
            },
            "models.mine.checkpoint: no file 'a.pt'",
        ),
    ],
    ids=[
        "problems",
        "training",
        "select",
        "k",
        "file",
        "permuted",
        "seeds",
        "no-seeds",
        "recipe",
        "untrained-seed",
        "planted",
        "course",
        "pair",
        "pair-problems",
        "pair-file",
    ],
)
def test_names_that_lead_nowhere_are_refused_with_their_key(change, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_config(filled())
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(filled(**change))


def test_a_network_that_a_recipe_makes_needs_no_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    family = {"checkpoint": NETWORK.format(FAMILY, "{seed}"), "seeds": [0, 7], "problems": FAMILY}
    check_config(filled(models={"mine": family}, select=["mine"], difference={}))


def merged(name):
    """The configuration with `config/NAME.yaml` over it."""
    over = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    return filled(
        **{key: {**CONFIG[key], **entry} if isinstance(entry, dict) else entry for key, entry in over.items()}
    )


def test_the_harder_problems_are_valid_and_those_of_the_networks_shapes(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = merged("ood")
    check_config(config)
    models = expanded_models(config)
    for name in selected_models(config):
        assert models[name]["spec"]["ood"]
        trained_on = models[name.replace("-ood", "")]
        assert models[name]["checkpoint"] == trained_on["checkpoint"]
        assert models[name]["spec"] == trained_on["spec"] | {"ood": True}


def test_the_study_for_a_cluster_is_valid_and_has_what_it_promises():
    config = merged("paper")
    check_config(config)
    families = config["select"]
    assert all(config["models"][family]["seeds"] == list(range(8)) for family in families)
    specs = [config["problems"][config["models"][family]["problems"]] for family in families]
    assert {spec["n"] for spec in specs} == {20}
    assert [spec["kappa"] for spec in specs if spec["task"] == "inverse"] == [10, 100, 1000]
    assert [spec["rank"] for spec in specs if spec["task"] == "completion"] == [1, 2, 5, 10]
    assert "addition" in {spec["task"] for spec in specs}
    for family in families:
        oracle = [name for name in CONDITIONS if name.startswith("oracle")]
        defined = [name for name in CONDITIONS if not undefined_condition(name, family, config)]
        assert set(CONDITIONS) - set(defined) <= set(oracle)


def test_only_selected_models_need_their_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    absent = {"absent": {"checkpoint": "a.pt", "problems": FAMILY}}
    check_config(filled(models=CONFIG["models"] | absent, select=[FAMILY]))


def test_a_family_of_seeds_becomes_one_model_per_seed():
    models = expanded_models(filled())
    seeds = CONFIG["models"][FAMILY]["seeds"]
    assert [name for name in models if name.startswith(FAMILY)] == [f"{FAMILY}-seed{s}" for s in seeds]
    third = models[f"{FAMILY}-seed3"]
    assert third["replicate"] == {"family": FAMILY, "seed": 3}
    assert third["checkpoint"]["random_init"] == f"resources/checkpoints/{FAMILY}-seed3.safetensors"
    permuted = third["checkpoint"]["permuted_targets"]
    assert permuted == f"resources/checkpoints/{FAMILY}-permuted-seed3.safetensors"
    assert set(third["checkpoint"]) == set(CONDITIONS)


def test_a_family_or_a_member_can_be_selected():
    every = selected_models(filled(select=[]))
    assert len(every) == 26
    assert not [name for name in every if name.startswith("planted")]
    assert selected_models(filled(select=[FAMILY])) == [name for name in every if FAMILY in name]
    assert selected_models(filled(select=["planted-inverse-n20"])) == ["planted-inverse-n20"]


def test_a_condition_that_is_undefined_says_why():
    config = filled(
        models={
            "one": {"checkpoint": "a.pt", "problems": FAMILY},
            "two": {"checkpoint": "b.pt", "problems": "hard"},
        },
        problems=CONFIG["problems"] | {"hard": {"task": "completion", "n": 5, "rank": 2}},
    )
    assert "models.one.permuted is not set" in undefined_condition("permuted_targets", "one", config)
    assert undefined_condition("oracle", "one", config) == ""
    assert "no computable reference" in undefined_condition("oracle_noise", "two", config)
    assert set(CONDITIONS) - set(expanded_models(config)["two"]["checkpoint"]) == {
        "permuted_targets",
        "oracle",
        "oracle_noise",
    }


@pytest.mark.parametrize(
    "law",
    [
        {"task": "addition", "n": 5},
        {"task": "inverse", "n": 5},
        {"task": "inverse", "n": 5, "kappa": 10.0},
        {"task": "completion", "n": 5},
        {"task": "completion", "n": 5, "rank": 1},
        {"task": "completion", "n": 5, "rank": 2},
        {"task": "completion", "n": 5, "rank": 1, "noise": 0.1},
    ],
    ids=str,
)
def test_the_oracle_is_said_to_be_undefined_exactly_where_it_refuses(law):
    config = filled(models={"one": {"checkpoint": "a.pt", "problems": "law"}}, problems={"law": law})
    reason = undefined_condition("oracle", "one", config)
    if reason:
        with pytest.raises(TaskError):
            BayesOracle(ProblemSpec.from_dict(law))
    else:
        BayesOracle(ProblemSpec.from_dict(law))


def test_values_inside_braces_on_the_command_line_are_what_yaml_makes_of_them():
    told = {
        "sampling": {"count": "128"},
        "select": ["mine"],
        "a": {"b": ["1.5", "true", "null", "[", "1: 2", ""]},
    }
    read = {"sampling": {"count": 128}, "select": ["mine"], "a": {"b": [1.5, True, None, "[", "1: 2", None]}}
    assert typed(told) == read
