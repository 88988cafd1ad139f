"""The hypotheses and the rule's constants, as registered before anything is measured.

They are read from one YAML file whose SHA-256 goes into every verdict. Whatever the file gets wrong is
refused with file, line and key: a registration that is silently misread is worse than none.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from iredinterp.config import CONDITIONS
from iredinterp.errors import ConfigError

NULLS = tuple(condition for condition in CONDITIONS if condition not in ("trained", "oracle"))
TASKS = ("addition", "inverse", "completion")
# By name, so that reading a configuration loads no library of statistics; what they are is in `statistics`.
STATISTIC_NAMES = ("log_slope", "log_mean", "mean", "rank_correlation")
POINT_KINDS = ("q_sample", "trajectory", "minimum", "perturbed")
VERDICTS = ("INVALID", "REVERSED", "ABSENT", "ARTEFACT", "PREDICTED", "SUPPORTED", "INCONCLUSIVE")


@dataclass(frozen=True)
class Gate:
    """The calibration a method must pass, on a model whose truth is planted, before its results count.

    Attributes:
        method: what is calibrated.
        metric: its error on the planted model.
        tolerance: the largest error with which it passes.
    """

    method: str
    metric: str
    tolerance: float


@dataclass(frozen=True)
class Hypothesis:
    """One registered claim.

    Attributes:
        id: its name.
        experiment: EXP-001 …
        claim: one sentence; a positive effect speaks for it.
        analysis: whose metric table is read.
        metric: in that table.
        component: of the metric; empty for the whole.
        point_kind: where the landscape was looked at.
        statistic: one of `STATISTIC_NAMES`.
        unit: of the statistic.
        sesoi: smallest effect size of interest, in that unit.
        naive: nulls that any structure learned from data should beat.
        artefact: nulls that keep the structure of the bookkeeping; an effect they reproduce is an artefact.
        oracle: whether the effect is also compared with that of the Bayes-optimal energy.
        tasks: that it speaks of.
        gate: calibration of the analysis.
        expected: by task, the verdict expected beforehand or None; recorded, without part in the rule.
    """

    id: str
    experiment: str
    claim: str
    analysis: str
    metric: str
    component: str
    point_kind: str
    statistic: str
    unit: str
    sesoi: float
    naive: tuple[str, ...]
    artefact: tuple[str, ...]
    oracle: bool
    tasks: tuple[str, ...]
    gate: Gate
    expected: Mapping[str, str | None]

    @property
    def nulls(self) -> tuple[str, ...]:
        """All required nulls, naive ones first."""
        return self.naive + self.artefact

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions that the rule compares."""
        return ("trained", *self.nulls, *(("oracle",) if self.oracle else ()))


@dataclass(frozen=True)
class Registration:
    """The registered hypotheses and constants of the rule.

    Attributes:
        hypotheses: in the order of the file.
        sha256: of the file.
        alpha: level of the tests; equivalence is judged by the 1 − 2α interval.
        confidence: of the interval that an effect must clear.
        draws: of the bootstrap.
        bootstrap_seed: of its generator.
        minimum_seeds: with fewer training seeds nothing is decided.
    """

    hypotheses: tuple[Hypothesis, ...]
    sha256: str
    alpha: float
    confidence: float
    draws: int
    bootstrap_seed: int
    minimum_seeds: int

    def __getitem__(self, id: str) -> Hypothesis:
        """The hypothesis of this name; KeyError if there is none."""
        return {hypothesis.id: hypothesis for hypothesis in self.hypotheses}[id]


def read_hypotheses(path: str | Path) -> Registration:
    """Read and check a registration, by default `config/hypotheses.yaml` of the repository.

    Args:
        path: YAML file; its keys are those of `Registration` and `Hypothesis`.

    Raises:
        ConfigError: names file, line, key, what was found, what is allowed and what to do.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a registration"
        ) from error
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}: not YAML ({problem}); correct this line") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deep to be read; write it flat") from error
    if node is None:
        raise ConfigError(f"{path}:1: the file is empty; declare {', '.join(REGISTRATION)}")
    read = _Reader(path).mapping(node, REGISTRATION, "")
    return Registration(
        hypotheses=tuple(_hypothesis(id, fields) for id, fields in read["hypotheses"].items()),
        sha256=hashlib.sha256(content).hexdigest(),
        alpha=read["alpha"],
        confidence=read["confidence"],
        draws=read["bootstrap"]["draws"],
        bootstrap_seed=read["bootstrap"]["seed"],
        minimum_seeds=read["minimum_seeds"],
    )


def _hypothesis(id: str, fields: dict) -> Hypothesis:
    nulls, gate = fields.pop("nulls"), Gate(**fields.pop("gate"))
    return Hypothesis(id=id, gate=gate, naive=nulls["naive"], artefact=nulls["artefact"], **fields)


@dataclass(frozen=True)
class _Scalar:
    """A value that `accepts` takes; `allowed` says in words what that is."""

    allowed: str
    accepts: Callable[[object], bool]


@dataclass(frozen=True)
class _Several:
    """A list of different values, at least one."""

    of: _Scalar


@dataclass(frozen=True)
class _Each:
    """A mapping of names that `name` accepts, at least one, to values of one kind."""

    name: _Scalar
    of: object


def _number(allowed: str, accepts: Callable[[float], bool]) -> _Scalar:
    def is_such(value: object) -> bool:
        # Not math.isfinite, which fails for integers that no float can hold.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max and accepts(value)

    return _Scalar(allowed, is_such)


def _integer(least: int) -> _Scalar:
    return _Scalar(f"an integer, at least {least}", lambda value: type(value) is int and value >= least)


def _text(allowed: str, pattern: str) -> _Scalar:
    return _Scalar(allowed, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def _one_of(names: tuple[str, ...]) -> _Scalar:
    return _Scalar(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


NAME = _text("a name of small letters, digits and _", r"[a-z][a-z0-9_]*")
SENTENCE = _text("a text of one line", r"\S.*")
FRACTION = _number("a number between 0 and 1", lambda value: 0 < value < 1)
POSITIVE = _number(
    "a number above 0 (write 0.001, not 1e-3, which YAML reads as text)", lambda value: value > 0
)

HYPOTHESIS = {
    "experiment": _text("EXP- and three digits", r"EXP-\d{3}"),
    "claim": SENTENCE,
    "analysis": NAME,
    "metric": NAME,
    "component": _Scalar('a text, "" for the whole', lambda value: isinstance(value, str)),
    "point_kind": _one_of(POINT_KINDS),
    "statistic": _one_of(STATISTIC_NAMES),
    "unit": SENTENCE,
    "sesoi": POSITIVE,
    "nulls": {"naive": _Several(_one_of(NULLS)), "artefact": _Several(_one_of(NULLS))},
    "oracle": _Scalar("true or false", lambda value: isinstance(value, bool)),
    "tasks": _Several(_one_of(TASKS)),
    "gate": {"method": NAME, "metric": NAME, "tolerance": POSITIVE},
    "expected": _Each(
        _one_of(TASKS),
        _Scalar(f"one of {', '.join(VERDICTS)} or null", lambda value: value is None or value in VERDICTS),
    ),
}
REGISTRATION = {
    "alpha": _number("a number between 0 and 0.5", lambda value: 0 < value < 0.5),
    "confidence": FRACTION,
    "bootstrap": {"draws": _integer(100), "seed": _integer(0)},
    "minimum_seeds": _integer(2),
    "hypotheses": _Each(NAME, HYPOTHESIS),
}


@dataclass(frozen=True)
class _Reader:
    path: Path

    def error(self, node: yaml.Node, key: str, problem: str) -> ConfigError:
        where = f"{key}: " if key else ""
        return ConfigError(f"{self.path}:{node.start_mark.line + 1}: {where}{problem}")

    def value(self, node: yaml.Node, kind: object, key: str) -> object:
        if kind is HYPOTHESIS:
            return self.hypothesis(node, key)
        if isinstance(kind, dict):
            return self.mapping(node, kind, key)
        if isinstance(kind, _Each):
            return self.each(node, kind, key)
        if isinstance(kind, _Several):
            return self.several(node, kind, key)
        return self.scalar(node, kind, key)

    def scalar(self, node: yaml.Node, kind: _Scalar, key: str) -> object:
        found = self.construct(node)
        if not kind.accepts(found):
            raise self.error(node, key, f"found {found!r}; change it to {kind.allowed}")
        return found

    def construct(self, node: yaml.Node) -> object:
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(
                node, "", f"cannot be read as {node.tag} ({error}); write a plain value"
            ) from error

    def several(self, node: yaml.Node, kind: _Several, key: str) -> tuple:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.error(
                node, key, f"found {self.construct(node)!r}; change it to a list, each {kind.of.allowed}"
            )
        found = []
        for item in node.value:
            value = self.scalar(item, kind.of, key)
            if value in found:
                raise self.error(item, key, f"found {value!r} twice; remove one")
            found.append(value)
        return tuple(found)

    def entries(self, node: yaml.Node, key: str, keys: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The key nodes and value nodes of a mapping by key."""
        if not isinstance(node, yaml.MappingNode) or not node.value:
            raise self.error(node, key, f"found {self.construct(node)!r}; change it to a mapping of {keys}")
        found = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise self.error(
                    name, key, f"found {self.construct(name)!r} as a key; change it to a plain name"
                )
            if name.value in found:
                raise self.error(name, _join(key, name.value), "declared twice; remove one")
            found[name.value] = name, value
        return found

    def each(self, node: yaml.Node, kind: _Each, key: str) -> dict:
        entries = self.entries(node, key, f"at least one name, {kind.name.allowed}")
        for name, _ in entries.values():
            self.scalar(name, kind.name, key)
        return {name: self.value(value, kind.of, _join(key, name)) for name, (_, value) in entries.items()}

    def mapping(self, node: yaml.Node, schema: Mapping[str, object], key: str) -> dict:
        entries = self.entries(node, key, ", ".join(schema))
        for name, (at, _) in entries.items():
            if name not in schema:
                raise self.error(
                    at, _join(key, name), f"unknown key; remove it or use one of {', '.join(schema)}"
                )
        for name in schema:
            if name not in entries:
                allowed = getattr(schema[name], "allowed", "see the other entries")
                raise self.error(node, _join(key, name), f"missing; add it ({allowed})")
        return {name: self.value(entries[name][1], kind, _join(key, name)) for name, kind in schema.items()}

    def hypothesis(self, node: yaml.Node, key: str) -> dict:
        """A hypothesis whose parts also agree with one another."""
        found = self.mapping(node, HYPOTHESIS, key)
        entries = self.entries(node, key, "")
        if both := set(found["nulls"]["naive"]) & set(found["nulls"]["artefact"]):
            problem = f"{min(both)!r} is both naive and artefact; keep it in one of the two lists"
            raise self.error(entries["nulls"][1], f"{key}.nulls", problem)
        if set(found["expected"]) != set(found["tasks"]):
            problem = (
                f"found {', '.join(found['expected'])}; name each of the tasks, {', '.join(found['tasks'])}"
            )
            raise self.error(entries["expected"][1], f"{key}.expected", problem)
        return found


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
