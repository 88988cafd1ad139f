"""Configurations and registrations with one value wrong, made from what the schema says of each key."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
# An entry of each section whose entries the user names.
NAMED = {"problems": "completion-n5", "models": "inverse-n5", "training": "inverse-n5"}
_DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
# The default configuration with few such entries, for speed.
CONFIG = _DEFAULT | {
    "select": ["inverse-n5"],
    "problems": {name: _DEFAULT["problems"][name] for name in ("inverse-n5", "completion-n5")},
    "models": {"inverse-n5": _DEFAULT["models"]["inverse-n5"]},
    "training": {"inverse-n5": _DEFAULT["training"]["inverse-n5"]},
    **{
        section: _DEFAULT[section] | {"course": _DEFAULT[section]["course"] | {"recipes": ["inverse-n5"]}}
        for section in ("implicit_bias", "ntk")
    },
}
# JSON schemas have no words for these: a whole number with a point, and what is no finite number.
NOT_WHOLE, NOT_FINITE = 7.0, (math.nan, math.inf)


def keys(schema: dict, path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Path and schema of every key, sections and entries of lists included."""
    for name, entry in schema.get("properties", {}).items():
        yield from _key((*path, name), entry)


def _key(path: tuple, entry: dict) -> Iterator[tuple[tuple, dict]]:
    yield path, entry
    yield from keys(entry, path)
    if isinstance(entry.get("additionalProperties"), dict):
        yield from _key((*path, NAMED[path[-1]]), entry["additionalProperties"])
    if "properties" in entry.get("items", {}):
        yield from _key((*path, 0), entry["items"])


WRONG_TYPES = {
    "string": (3, True, []),
    "integer": ("many", 2.5, True, [], NOT_WHOLE, math.nan),
    "number": ("many", True, [], *NOT_FINITE),
    "boolean": ("maybe", 1, []),
    "array": ("many", 3, {}),
    "object": ("many", 3, []),
}


def wrong_values(entry: dict) -> Iterator[object]:
    """Values of another type, out of range, unknown, empty or repeated."""
    types = entry["type"] if isinstance(entry["type"], list) else [entry["type"]]
    yield from WRONG_TYPES[types[0]]
    if "null" not in types:
        yield None
    if "enum" in entry:
        yield "nonsense"
    if "minLength" in entry:
        yield ""
    for bound, step in (("minimum", -1), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)):
        if bound in entry:
            yield entry[bound] + step
    if types[0] == "array":
        item = entry["items"]
        if "minItems" in entry:
            yield []
        yield from ([value] for value in list(wrong_values(item))[:3])
        if "uniqueItems" in entry:
            good = item["enum"][0] if "enum" in item else 40
            yield [good, good]
    if types[0] == "object":
        if "minProperties" in entry:
            yield {}
        if entry.get("additionalProperties") is False:
            yield {"no_such_key": 1}
        if "propertyNames" in entry:
            yield {"no name": {}}
            yield {5: {}}


def spelled(path: tuple) -> tuple[str, str]:
    """A key as Snakemake writes it, and as we do."""
    return "".join(f"[{part!r}]" for part in path), ".".join(part for part in path if part != 0)


def assigned(path: tuple, value: object) -> dict:
    """The default configuration with one value changed."""
    config = copy.deepcopy(CONFIG)
    *parents, last = path
    place = config
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    place[last] = value
    return config


def without(path: tuple) -> dict:
    """The default configuration without one key."""
    config = copy.deepcopy(CONFIG)
    *parents, last = path
    place = config
    for part in parents:
        place = place[part]
    place.pop(last, None)
    return config


WRONG = [(path, value) for path, entry in keys(SCHEMA) for value in wrong_values(entry)]
REQUIRED = [
    (*path, name) for path, entry in [((), SCHEMA), *keys(SCHEMA)] for name in entry.get("required", ())
]

_LAW = CONFIG["problems"]["completion-n5"]
_MODEL = CONFIG["models"]["inverse-n5"]
# Parts that do not fit together, each with the key that the error names and what it says.
INCONSISTENT = [
    ({"problems": {"law": {"task": "inverse", "n": 5, "rank": 1}}}, "problems.law.rank", "only completion"),
    ({"problems": {"law": {"task": "completion", "n": 5, "rank": 6}}}, "problems.law.rank", "at most n = 5"),
    ({"problems": {"law": _LAW | {"kappa": 10}}}, "problems.law.kappa", "only inverse"),
    ({"problems": {"law": _LAW | {"ood": True}}}, "problems.law.ood", "without rank and kappa"),
    ({"problems": {"law": {"task": "completion", "n": 5, "noise": 0.1}}}, "problems.law.noise", "it is 0"),
    ({"problems": {"law": {"task": "addition", "n": 5, "observed": 0.9}}}, "problems.law.observed", "it is 0.5"),
    ({"problems": {"law": {"task": "addition", "n": 5, "factors": "positive"}}}, "problems.law.factors", "normal"),
    ({"models": {"mine": _MODEL | {"problems": "other"}}}, "models.mine.problems", "defined are completion-n5, inverse-n5"),
    ({"models": {"mine": _MODEL | {"seeds": []}}}, "models.mine.checkpoint", "{seed}"),
    ({"models": {"mine": _MODEL | {"checkpoint": "a.pt"}}}, "models.mine.checkpoint", "{seed}"),
    ({"models": {"mine": _MODEL | {"permuted": "a.pt"}}}, "models.mine.permuted", "{seed}"),
    ({"models": {"mine": _MODEL | {"checkpoint": "none-{seed}.pt"}}, "select": []}, "models.mine.checkpoint", "none-0.pt"),
    ({"models": {"mine": _MODEL | {"permuted": "none-{seed}.pt"}}, "select": []}, "models.mine.permuted", "none-0.pt"),
    ({"models": {"mine": {"checkpoint": "config", "problems": "inverse-n5"}}, "select": []}, "models.mine.checkpoint", "no file"),
    (
        {"models": {"a-seed1": {"checkpoint": "a.pt", "problems": "inverse-n5"}, "a": _MODEL}},
        "models.a.seeds", "another model a-seed1",
    ),
    ({"models": {"planted-inverse-n5": _MODEL | {"seeds": [], "checkpoint": "a.pt", "permuted": None}}}, "models.planted-inverse-n5", "taken"),
    ({"training": {"mine": CONFIG["training"]["inverse-n5"] | {"problems": "other"}}}, "training.mine.problems", "defined are"),
    ({"implicit_bias": {"course": {"recipes": ["other"]}}}, "implicit_bias.course.recipes", "defined are"),
    ({"select": ["other"]}, "select", "defined are"),
    ({"sae": CONFIG["sae"] | {"k": [400]}}, "sae.k", "400"),
    ({"grassmann": CONFIG["grassmann"] | {"radii": [1.0, 0.3]}}, "grassmann.radii", "ascending"),
]  # fmt: skip

UNPARSABLE = {
    "an open list": "select: [a, b\n",
    "an open mapping": "problems: {a: {task: inverse, n: 5}\n",
    "an open quote": "device: 'auto\n",
    "a tab": "sampling:\n\tcount: 3\n",
    "two mappings on a line": "device: auto: cpu\n",
    "uneven": "sampling:\n    count: 3\n  block: 3\n",
    "an unknown anchor": "training: {a: *nothing}\n",
    "a Python object": "device: !!python/object/apply:os.getcwd []\n",
    "a list": "- device\n- auto\n",
    "a word": "device\n",
    "control characters": "device: \x07\n",
}

REGISTRATION = yaml.safe_load(
    """
alpha: 0.05
confidence: 0.95
bootstrap: {draws: 500, seed: 3}
minimum_seeds: 6
hypotheses:
  rising:
    experiment: EXP-001
    claim: It rises.
    analysis: hessian
    metric: condition_number
    component: whole
    point_kind: q_sample
    statistic: log_slope
    unit: "1"
    sesoi: 0.1
    nulls: {naive: [random_init], artefact: [oracle_noise]}
    oracle: true
    tasks: [inverse]
    gate: {method: hessian, metric: slope_error, tolerance: 0.01}
    expected: {inverse: PREDICTED}
"""
)
FREE_TEXT = ("claim", "component", "unit")


def wrong_registrations(found: object = REGISTRATION, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """(path of a key, a value it must not have) for every key of a registration."""
    if isinstance(found, dict):
        yield from ((path, value) for value in (None, "many", 3, [], {}))
        yield path, found | {"no_such_key": 1}
        for name, value in found.items():
            yield path, {key: kept for key, kept in found.items() if key != name}
            yield from wrong_registrations(value, (*path, name))
    elif isinstance(found, list):
        yield from ((path, value) for value in (None, found[0], 3, {}, [], ["nonsense"], [3], found * 2))
    elif isinstance(found, bool):
        yield from ((path, value) for value in (None, "maybe", 3, [], {}))
    elif isinstance(found, str):
        yield from ((path, value) for value in (3, True, [], {}, ["a"]))
        yield from ((path, value) for value in ("???",) if path[-1] not in FREE_TEXT)
        yield from ((path, value) for value in (None,) if "expected" not in path)
        yield from ((path, value) for value in ("",) if path[-1] != "component")
    else:
        yield from ((path, value) for value in (None, "many", True, [], {}, -1, *NOT_FINITE))
        yield from ((path, value) for value in (10**400,) if isinstance(found, float))


def registration(path: tuple, value: object) -> str:
    """The text of the registration with one value changed."""
    if not path:
        return yaml.safe_dump(value, sort_keys=False)
    changed = copy.deepcopy(REGISTRATION)
    *parents, last = path
    place = changed
    for part in parents:
        place = place[part]
    place[last] = value
    return yaml.safe_dump(changed, sort_keys=False)
