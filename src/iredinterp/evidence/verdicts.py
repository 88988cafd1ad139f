"""One verdict per hypothesis and problem family, by the rule registered beforehand.

The effect against a null is Δ = statistic(trained) − statistic(null), paired on seed and problem, with s the
smallest effect size of interest. The first that applies decides:

1. INVALID: the analysis failed its own calibration on a planted model.
2. REVERSED: the 95 % interval of Δ lies below −s against every required null.
3. ABSENT: the 90 % interval of Δ lies inside ±s against every required null (two one-sided tests at 5 %).
4. ARTEFACT: the 95 % interval lies above s against every naive null, but against some artefact null the 90 %
   interval ends below s: that null reproduces the effect.
5. PREDICTED: the 90 % interval of trained − oracle lies inside ±s: true, but no discovery.
6. SUPPORTED: the 95 % interval lies above s against every required null, and the sign-flip test on the seed
   means rejects at α after Holm's correction.
7. INCONCLUSIVE: all else, and wherever the evidence the rule asks for is missing.

The test of a pair (hypothesis, family) is the largest p over its required nulls (intersection-union); Holm's
correction runs over all pairs that samples exist for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from iredinterp.errors import ConfigError, TableError
from iredinterp.evidence.hypotheses import CONDITIONS, Hypothesis, Registration, read_hypotheses
from iredinterp.evidence.statistics import (
    Resamples,
    hierarchical_bootstrap,
    holm,
    resample,
    seeds_needed,
    sign_flip_test,
    smallest_p,
    tost,
)

Undefined = Mapping[tuple[str, str], str]
Gates = Mapping[tuple[str, str], float]

SAMPLE_KEYS = ("hypothesis", "task", "family", "condition", "seed", "problem_id")
UNIT = ["seed", "problem_id"]


@dataclass(frozen=True)
class Contrast:
    """The trained model against one condition.

    Attributes:
        condition: a null or the oracle.
        effect: mean of Δ over seeds.
        ci95: interval at the registration's confidence.
        ci90: its 1 − 2α interval, by which equivalence is judged.
        p: of the exact two-sided sign-flip test on the seed means of Δ.
        p_equivalence: of the two one-sided tests against ±s.
        seeds: how many.
        problems: how many, over all seeds.
    """

    condition: str
    effect: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    p: float
    p_equivalence: float
    seeds: int
    problems: int


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one hypothesis in one family, and why.

    Attributes:
        hypothesis: the claim and its registered constants.
        task: of the family.
        family: problems of one distribution; empty where nothing was measured.
        contrasts: by condition, the oracle included; without those that are missing.
        missing: by condition, why it has no contrast.
        gate_error: that the analysis made on the planted model; None where it was not calibrated.
        p: the largest over the required nulls; NaN unless all of them have a contrast.
        p_holm: the same after Holm's correction.
        verdict: one of `iredinterp.evidence.hypotheses.VERDICTS`.
        reason: one line, with the numbers that decided.
    """

    hypothesis: Hypothesis
    task: str
    family: str
    contrasts: Mapping[str, Contrast]
    missing: Mapping[str, str]
    gate_error: float | None
    p: float = np.nan
    p_holm: float = np.nan
    verdict: str = ""
    reason: str = ""

    @property
    def gate_passed(self) -> bool | None:
        """Whether the analysis passed its calibration; None where it was not calibrated."""
        return None if self.gate_error is None else self.gate_error <= self.hypothesis.gate.tolerance

    @property
    def seeds(self) -> int:
        """Training seeds in the contrast that has fewest."""
        return min((contrast.seeds for contrast in self.contrasts.values()), default=0)

    @property
    def required(self) -> list[Contrast]:
        """Contrasts with the required nulls."""
        return [self.contrasts[name] for name in self.hypothesis.nulls if name in self.contrasts]

    @property
    def hardest(self) -> Contrast | None:
        """The contrast with the required null that leaves least of the effect; None if there is none."""
        return min(self.required, key=lambda contrast: contrast.ci95[0], default=None)


def judge(
    registration: Registration, samples: pd.DataFrame, gates: Gates, undefined: Undefined | None = None
) -> list[Verdict]:
    """Apply the rule to every registered hypothesis.

    Args:
        registration: hypotheses and constants.
        samples: columns hypothesis, task, family, condition, seed, problem_id and value: the hypothesis'
            statistic, once per seed, problem and condition. Values that are not finite count as undefined,
            for the reason that column `reason` gives, if there is one.
        gates: by (gate method, family), the error that the method made on the planted model, infinite where
            it could not be said.
        undefined: by (family, condition), why that condition has no samples.

    Returns:
        One verdict per hypothesis and family in `samples`, and one per hypothesis and task without samples,
        in the order of the registration.

    Raises:
        TableError: a column is missing, a name is unknown, or a seed and problem occur twice in a condition.
    """
    _check(registration, samples)
    measured = dict(list(samples.groupby(["hypothesis", "task", "family"], observed=True)))
    verdicts = []
    for hypothesis in registration.hypotheses:
        for task in hypothesis.tasks:
            families = sorted(family for id, of, family in measured if (id, of) == (hypothesis.id, task))
            for family in families:
                part = measured[hypothesis.id, task, family]
                contrasts, missing = _contrasts(registration, hypothesis, part, family, undefined or {})
                error = gates.get((hypothesis.gate.method, family))
                verdicts.append(Verdict(hypothesis, task, family, contrasts, missing, error))
            if not families:
                verdicts.append(Verdict(hypothesis, task, "", {}, {}, None))
    tests = len(measured)
    decided = []
    for found in _tested(verdicts):
        name, reason = _decide(found, registration, tests)
        decided.append(replace(found, verdict=name, reason=reason))
    return decided


def verdict(
    hypothesis: str,
    samples: pd.DataFrame,
    gates: Gates,
    undefined: Undefined | None = None,
    registration: Registration | str | Path = "config/hypotheses.yaml",
) -> list[Verdict]:
    """Verdicts of one hypothesis, for notebooks.

    Holm's correction runs over everything in `samples`, so leave the other hypotheses' rows in.

    Args:
        hypothesis: its id.
        samples, gates, undefined: as in `judge`.
        registration: the registered hypotheses, or their file.

    Returns:
        One verdict per family, and one per task without samples.

    Raises:
        ConfigError: no such hypothesis, or a faulty registration.
        TableError: as `judge`.
    """
    if not isinstance(registration, Registration):
        registration = read_hypotheses(registration)
    if hypothesis not in (known := [entry.id for entry in registration.hypotheses]):
        raise ConfigError(f"unknown hypothesis {hypothesis!r}: use one of {', '.join(known)}")
    return [
        found for found in judge(registration, samples, gates, undefined) if found.hypothesis.id == hypothesis
    ]


def verdict_table(verdicts: Sequence[Verdict], registration: Registration, reproduce: str) -> pa.Table:
    """One row per verdict; effect and interval are those against the hardest required null.

    Args:
        verdicts: from `judge`.
        registration: what they were judged by.
        reproduce: the command that makes this table.
    """
    rows = []
    for found in verdicts:
        hypothesis, hardest = found.hypothesis, found.hardest
        oracle = found.contrasts.get("oracle")
        rows.append(
            {
                "hypothesis": hypothesis.id,
                "experiment": hypothesis.experiment,
                "family": found.family,
                "task": found.task,
                "claim": hypothesis.claim,
                "analysis": hypothesis.analysis,
                "metric": hypothesis.metric,
                "statistic": hypothesis.statistic,
                "unit": hypothesis.unit,
                "hardest_null": hardest and hardest.condition,
                **_effect(hardest, ""),
                "p_perm": _known(found.p),
                "p_holm": _known(found.p_holm),
                "sesoi": hypothesis.sesoi,
                **_effect(oracle, "oracle_"),
                "null_set": " ".join(hypothesis.nulls),
                "n_seeds": min((contrast.seeds for contrast in found.required), default=0),
                "n_problems": min((contrast.problems for contrast in found.required), default=0),
                "gate_passed": found.gate_passed,
                "expected": hypothesis.expected[found.task],
                "verdict": found.verdict,
                "reason": found.reason,
                "hypotheses_sha256": registration.sha256,
                "reproduce": reproduce,
            }
        )
    return pa.Table.from_pylist(rows, VERDICT_SCHEMA)


def contrast_table(verdicts: Sequence[Verdict]) -> pa.Table:
    """One row per hypothesis, family and condition compared with; null where the contrast is missing."""
    rows = []
    for found in verdicts:
        for condition in found.hypothesis.conditions[1:] if found.family else ():
            contrast = found.contrasts.get(condition)
            rows.append(
                {
                    "hypothesis": found.hypothesis.id,
                    "experiment": found.hypothesis.experiment,
                    "family": found.family,
                    "task": found.task,
                    "condition": condition,
                    "role": _role(found.hypothesis, condition),
                    **_effect(contrast, ""),
                    "ci90_lo": contrast and contrast.ci90[0],
                    "ci90_hi": contrast and contrast.ci90[1],
                    "p_perm": contrast and contrast.p,
                    "p_equivalence": contrast and contrast.p_equivalence,
                    "sesoi": found.hypothesis.sesoi,
                    "n_seeds": contrast.seeds if contrast else 0,
                    "n_problems": contrast.problems if contrast else 0,
                    "reason": found.missing.get(condition),
                }
            )
    return pa.Table.from_pylist(rows, CONTRAST_SCHEMA)


_TEXT, _REAL, _COUNT = pa.string(), pa.float64(), pa.int32()
VERDICT_SCHEMA = pa.schema(
    dict.fromkeys(("hypothesis", "experiment", "family", "task", "claim", "analysis", "metric"), _TEXT)
    | dict.fromkeys(("statistic", "unit", "hardest_null"), _TEXT)
    | dict.fromkeys(("effect", "ci_lo", "ci_hi", "p_perm", "p_holm", "sesoi"), _REAL)
    | dict.fromkeys(("oracle_effect", "oracle_ci_lo", "oracle_ci_hi"), _REAL)
    | {"null_set": _TEXT, "n_seeds": _COUNT, "n_problems": _COUNT, "gate_passed": pa.bool_()}
    | dict.fromkeys(("expected", "verdict", "reason", "hypotheses_sha256", "reproduce"), _TEXT)
)
CONTRAST_SCHEMA = pa.schema(
    dict.fromkeys(("hypothesis", "experiment", "family", "task", "condition", "role"), _TEXT)
    | dict.fromkeys(
        ("effect", "ci_lo", "ci_hi", "ci90_lo", "ci90_hi", "p_perm", "p_equivalence", "sesoi"), _REAL
    )
    | {"n_seeds": _COUNT, "n_problems": _COUNT, "reason": _TEXT}
)


def _check(registration: Registration, samples: pd.DataFrame) -> None:
    if lacking := [name for name in (*SAMPLE_KEYS, "value") if name not in samples.columns]:
        raise TableError(f"samples: no column {lacking[0]!r}; they need {', '.join((*SAMPLE_KEYS, 'value'))}")
    if gaps := [name for name in SAMPLE_KEYS if samples[name].isna().any()]:
        raise TableError(f"samples: {gaps[0]!r} is empty in some rows; every sample names all its keys")
    registered = {hypothesis.id: hypothesis.tasks for hypothesis in registration.hypotheses}
    for id, task in samples[["hypothesis", "task"]].drop_duplicates().itertuples(index=False):
        if id not in registered:
            raise TableError(
                f"samples: hypothesis {id!r} is not registered; registered are {', '.join(registered)}"
            )
        if task not in registered[id]:
            raise TableError(
                f"samples: hypothesis {id!r} is not registered for task {task!r}; leave these rows out "
                f"(registered for {', '.join(registered[id])})"
            )
    if unknown := set(samples["condition"]) - set(CONDITIONS):
        raise TableError(f"samples: unknown condition {min(unknown)!r}; use {', '.join(CONDITIONS)}")
    twice = samples.duplicated(list(SAMPLE_KEYS))
    if twice.any():
        keys = samples.loc[twice.idxmax(), list(SAMPLE_KEYS)].to_dict()
        raise TableError(f"samples: {keys} occurs twice; give one value per seed, problem and condition")


def _contrasts(
    registration: Registration, hypothesis: Hypothesis, part: pd.DataFrame, family: str, undefined: Undefined
) -> tuple[dict[str, Contrast], dict[str, str]]:
    finite = part[np.isfinite(part["value"].to_numpy(np.float64, na_value=np.nan))]
    values = finite.pivot(index=UNIT, columns="condition", values="value").astype(np.float64)
    contrasts, missing = {}, {}
    for condition in hypothesis.conditions[1:]:
        if absent := [name for name in ("trained", condition) if name not in values.columns]:
            missing[condition] = _missing(part, family, absent[0], undefined)
            continue
        delta = (values["trained"] - values[condition]).dropna()
        if delta.empty:
            missing[condition] = (
                f"shares no seed and problem with trained; measure {condition} on the same ones"
            )
            continue
        contrasts[condition] = _contrast(
            registration, hypothesis.sesoi, condition, delta.unstack().to_numpy()
        )
    return contrasts, missing


def _missing(part: pd.DataFrame, family: str, condition: str, undefined: Undefined) -> str:
    """Why there is nothing of a condition to compare with."""
    unsaid = f"no defined samples of {condition}"
    if "reason" in part.columns:
        for reason in part.loc[part["condition"] == condition, "reason"].dropna():
            return f"{unsaid}: {reason}"
    return undefined.get((family, condition), unsaid)


def _contrast(registration: Registration, sesoi: float, condition: str, delta: np.ndarray) -> Contrast:
    bootstrap = hierarchical_bootstrap(
        delta, _resamples(*delta.shape, registration.bootstrap_seed, registration.draws)
    )
    return Contrast(
        condition,
        effect=bootstrap.mean,
        ci95=bootstrap.interval(registration.confidence),
        ci90=bootstrap.interval(1 - 2 * registration.alpha),
        p=sign_flip_test(bootstrap.seed_means),
        p_equivalence=tost(bootstrap, -sesoi, sesoi),
        seeds=delta.shape[0],
        problems=delta.shape[1],
    )


# Every contrast of one shape meets the same draws, so that none depends on which others were made.
@lru_cache(maxsize=2)
def _resamples(seeds: int, problems: int, bootstrap_seed: int, draws: int) -> Resamples:
    return resample(seeds, problems, np.random.default_rng(bootstrap_seed), draws)


def _tested(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """With p, and p_holm over all that were measured; one whose p is undefined counts as p = 1."""
    verdicts = [
        replace(found, p=max(contrast.p for contrast in found.required))
        if found.family and len(found.required) == len(found.hypothesis.nulls)
        else found
        for found in verdicts
    ]
    measured = [found for found in verdicts if found.family]
    adjusted = iter(holm([1.0 if np.isnan(found.p) else found.p for found in measured]))
    corrected = (next(adjusted) if found.family else np.nan for found in verdicts)
    return [
        replace(found, p_holm=np.nan if np.isnan(found.p) else float(p))
        for found, p in zip(verdicts, corrected, strict=True)
    ]


def _decide(found: Verdict, registration: Registration, tests: int) -> tuple[str, str]:
    hypothesis, s = found.hypothesis, found.hypothesis.sesoi
    if gap := _gap(found, registration):
        return gap
    required, hardest = found.required, found.hardest
    if all(contrast.ci95[1] < -s for contrast in required):
        closest = max(required, key=lambda contrast: contrast.ci95[1])
        return "REVERSED", f"below -{s:g} against every null; closest is {_against(closest)}"
    if all(_inside(contrast.ci90, s) for contrast in required):
        widest = max(required, key=lambda contrast: np.abs(contrast.ci90).max())
        return "ABSENT", f"within ±{s:g} of every null; farthest is {_against(widest, 'ci90')}"
    beats_naive = all(found.contrasts[name].ci95[0] > s for name in hypothesis.naive)
    reproducing = [found.contrasts[name] for name in hypothesis.artefact if found.contrasts[name].ci90[1] < s]
    if beats_naive and reproducing:
        null = min(reproducing, key=lambda contrast: contrast.ci90[1])
        return "ARTEFACT", f"{null.condition} reproduces it: {_against(null, 'ci90')} ends below {s:g}"
    if hypothesis.oracle and "oracle" not in found.contrasts:
        return "INCONCLUSIVE", f"cannot be compared with the optimal energy: {found.missing['oracle']}"
    if hypothesis.oracle and _inside(found.contrasts["oracle"].ci90, s):
        oracle = found.contrasts["oracle"]
        return "PREDICTED", f"within ±{s:g} of the optimal energy: {_against(oracle, 'ci90')}"
    if hardest.ci95[0] <= s:
        return "INCONCLUSIVE", f"not above {s:g} and not settled below it: {_against(hardest)}"
    if found.p_holm > registration.alpha:
        return "INCONCLUSIVE", _untested(found, registration, tests)
    return "SUPPORTED", (
        f"above {s:g} against every null, adjusted p = {found.p_holm:.3g}; hardest is {_against(hardest)}"
    )


def _gap(found: Verdict, registration: Registration) -> tuple[str, str] | None:
    """The verdict where the evidence that the rule asks for is faulty or missing; else None."""
    gate, least = found.hypothesis.gate, registration.minimum_seeds
    if not found.family:
        return "INCONCLUSIVE", f"not run: no samples of {found.hypothesis.analysis} on {found.task}"
    if found.gate_error == np.inf:
        return "INVALID", (
            f"{gate.method} could not be calibrated: {gate.metric} is undefined on the planted network"
        )
    if found.gate_passed is False:
        return "INVALID", (
            f"{gate.method} failed its calibration: {gate.metric} = {found.gate_error:.3g}, "
            f"allowed up to {gate.tolerance:g}"
        )
    if found.gate_passed is None:
        return "INCONCLUSIVE", f"not calibrated: {gate.metric} of {gate.method} was not measured"
    for null in found.hypothesis.nulls:
        if null in found.missing:
            return "INCONCLUSIVE", f"required null {null} is missing: {found.missing[null]}"
    if found.seeds < least:
        best = smallest_p(found.seeds)
        above = f", above {registration.alpha:g}" if best > registration.alpha else ""
        seeds = "1 seed" if found.seeds == 1 else f"{found.seeds} seeds"
        return "INCONCLUSIVE", (
            f"{seeds}: the smallest two-sided p is {best:.4g}{above}; train at least {least}"
        )
    return None


def _untested(found: Verdict, registration: Registration, tests: int) -> str:
    best = min(1.0, tests * smallest_p(found.seeds))
    text = f"above {found.hypothesis.sesoi:g} against every null, but adjusted p = {found.p_holm:.3g}"
    if best > registration.alpha:
        text += (
            f"; with {found.seeds} seeds and {tests} tests none can fall below {best:.3g}, "
            f"train at least {seeds_needed(registration.alpha, tests)}"
        )
    return text


def _inside(interval: tuple[float, float], s: float) -> bool:
    return -s < interval[0] and interval[1] < s


def _against(contrast: Contrast, interval: str = "ci95") -> str:
    low, high = getattr(contrast, interval)
    return f"trained - {contrast.condition} = {contrast.effect:.3g} [{low:.3g}, {high:.3g}]"


def _role(hypothesis: Hypothesis, condition: str) -> str:
    if condition == "oracle":
        return "oracle"
    return "naive" if condition in hypothesis.naive else "artefact"


def _effect(contrast: Contrast | None, prefix: str) -> dict[str, float | None]:
    low, high = contrast.ci95 if contrast else (None, None)
    return {f"{prefix}effect": contrast and contrast.effect, f"{prefix}ci_lo": low, f"{prefix}ci_hi": high}


def _known(p: float) -> float | None:
    return None if np.isnan(p) else p
