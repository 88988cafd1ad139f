"""The configuration, its schema and its manual say the same; names that lead nowhere are refused."""

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from iredinterp.config import check_config
from iredinterp.errors import ConfigError

ROOT = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text())
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
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    for section, entry in SCHEMA["properties"].items():
        whole = re.search(rf'config\["{section}"\](?!\[)|lookup\("{section}/\{{\w+\}}"', rules)
        for key in entry.get("properties", {}):
            assert whole or f'config["{section}"]["{key}"]' in rules, f"{section}.{key}"
        assert whole or f'config["{section}"]' in rules or f'"{section}/' in rules, section


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"models": {"mine": {"checkpoint": "a.pt", "problems": "other"}}},
            "models.mine.problems: 'other' is not",
        ),
        ({"training": {"mine": {"problems": "other"}}}, "training.mine.problems: 'other' is not"),
        ({"select": ["mine"]}, "select: 'mine' is not defined under models; defined are addition-n5"),
        (
            {"models": {"mine": {"checkpoint": "a.pt", "problems": "inverse-n5"}}},
            "models.mine.checkpoint: no file 'a.pt'",
        ),
    ],
    ids=["problems", "training", "select", "file"],
)
def test_names_that_lead_nowhere_are_refused_with_their_key(change, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_config(CONFIG)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config({**CONFIG, **change})


def test_only_selected_models_need_their_file(monkeypatch):
    monkeypatch.chdir(ROOT)
    absent = {"absent": {"checkpoint": "a.pt", "problems": "inverse-n5"}}
    check_config({**CONFIG, "models": {**CONFIG["models"], **absent}, "select": ["inverse-n5"]})
