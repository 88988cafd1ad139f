"""The rule, verdict by verdict, on constructed samples; its order, its invariances and its error rates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from iredinterp.errors import ConfigError, TableError
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.statistics import holm
from iredinterp.evidence.verdicts import SAMPLE_KEYS, contrast_table, judge, verdict, verdict_table

REGISTRATION = read_hypotheses(Path(__file__).parents[1] / "config/hypotheses.yaml")
FAST = replace(REGISTRATION, draws=1000)
HYPOTHESIS = REGISTRATION["spectrum_progression"]
SESOI = HYPOTHESIS.sesoi
PASSED = {(HYPOTHESIS.gate.method, "inverse-n5"): HYPOTHESIS.gate.tolerance}
# Every null far below the trained model, the oracle too.
FAR = dict.fromkeys(HYPOTHESIS.conditions[1:], -10 * SESOI)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def samples(rng, levels, seeds=8, problems=20, noise=0.1 * SESOI, hypothesis=HYPOTHESIS, family="inverse-n5"):
    """Values of every condition about its level (0 for the trained model, in absolute units)."""
    seed, problem = (axis.ravel() for axis in np.meshgrid(range(seeds), range(problems), indexing="ij"))
    parts = []
    for condition in hypothesis.conditions:
        value = levels.get(condition, 0.0) + noise * (
            rng.standard_normal(seeds)[seed]
            + rng.standard_normal(problems)[problem]
            + rng.standard_normal(seed.size)
        )
        keys = {
            "hypothesis": hypothesis.id,
            "task": family.split("-")[0],
            "family": family,
            "condition": condition,
        }
        parts.append(pd.DataFrame({**keys, "seed": seed, "problem_id": problem, "value": value}))
    return pd.concat(parts, ignore_index=True)


def judged(frame, gates=PASSED, undefined=None, registration=FAST):
    (found,) = (found for found in judge(registration, frame, gates, undefined) if found.family)
    return found


CASES = {
    "SUPPORTED": FAR,
    "PREDICTED": FAR | {"oracle": 0.0},
    "ARTEFACT": FAR | {"oracle_noise": 0.0},
    "ABSENT": dict.fromkeys(FAR, 0.0),
    "REVERSED": dict.fromkeys(FAR, 10 * SESOI),
    "INCONCLUSIVE": FAR | {"random_init": -SESOI},
}


@pytest.mark.parametrize("expected", CASES)
def test_constructed_effects_meet_their_verdict(expected, rng):
    found = judged(samples(rng, CASES[expected]))
    assert found.verdict == expected, found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("levels", "expected", "reason"),
    [
        # ABSENT goes before PREDICTED, REVERSED and ARTEFACT before PREDICTED.
        (dict.fromkeys(FAR, 0.0), "ABSENT", "within ±0.1 of every null"),
        (dict.fromkeys(FAR, 10 * SESOI) | {"oracle": 0.0}, "REVERSED", "below -0.1 against every null"),
        (FAR | {"shuffled_x": 0.0, "oracle": 0.0}, "ARTEFACT", "shuffled_x reproduces it"),
        # An artefact null that overshoots reproduces the effect as well.
        (FAR | {"shuffled_x": 1.0}, "ARTEFACT", "shuffled_x reproduces it"),
        # What does not beat a naive null is no artefact, whatever else reproduces it.
        (FAR | {"random_init": 0.0, "shuffled_x": 0.0}, "INCONCLUSIVE", "trained - "),
        # One null that the effect is not below keeps REVERSED away.
        (dict.fromkeys(FAR, 10 * SESOI) | {"shuffled_x": 0.0}, "INCONCLUSIVE", "not above 0.1"),
        # The optimal energy having more of it is not having as much of it.
        (FAR | {"oracle": 10 * SESOI}, "SUPPORTED", "above 0.1 against every null"),
    ],
)
def test_the_rule_keeps_its_order(levels, expected, reason, rng):
    found = judged(samples(rng, levels))
    assert found.verdict == expected, found.reason
    assert reason in found.reason


@pytest.mark.parametrize("levels", CASES.values(), ids=CASES)
def test_a_failed_calibration_overrides_everything_and_one_not_run_decides_nothing(levels, rng):
    frame = samples(rng, levels)
    for error in (1.01 * HYPOTHESIS.gate.tolerance, np.nan):
        found = judged(frame, {("hessian", "inverse-n5"): error})
        assert (found.verdict, found.gate_passed) == ("INVALID", False)
        assert "hessian failed its calibration: log_slope_error = " in found.reason
        assert "allowed up to 0.05" in found.reason
    found = judged(frame, {("hessian", "inverse-n5"): np.inf})
    assert (found.verdict, found.gate_passed) == ("INVALID", False)
    assert (
        found.reason == "hessian could not be calibrated: log_slope_error is undefined on the planted network"
    )
    found = judged(frame, {("hessian", "addition-n5"): 0.0, ("sae", "inverse-n5"): 0.0})
    assert (found.verdict, found.gate_passed) == ("INCONCLUSIVE", None)
    assert "not calibrated" in found.reason


def test_five_seeds_cannot_decide_and_the_reason_says_how_many_could(rng):
    found = judged(samples(rng, FAR, seeds=5))
    assert found.verdict == "INCONCLUSIVE"
    assert found.reason == "5 seeds: the smallest two-sided p is 0.0625, above 0.05; train at least 6"
    assert judged(samples(rng, FAR, seeds=6)).verdict == "SUPPORTED"
    assert "1 seed:" in judged(samples(rng, FAR, seeds=1)).reason


def test_a_null_measured_with_fewer_seeds_counts(rng):
    frame = samples(rng, FAR)
    found = judged(frame[(frame.condition != "shuffled_x") | (frame.seed < 5)])
    assert found.verdict == "INCONCLUSIVE"
    assert found.reason.startswith("5 seeds")


@pytest.mark.parametrize("null", [*HYPOTHESIS.nulls, "trained"])
def test_a_required_null_without_samples_is_inconclusive_with_its_reason(null, rng):
    frame = samples(rng, FAR)
    frame.loc[frame.condition == null, "value"] = np.nan
    found = judged(frame, undefined={("inverse-n5", null): "x fixes nothing here"})
    assert (found.verdict, found.p) == ("INCONCLUSIVE", pytest.approx(np.nan, nan_ok=True))
    assert "x fixes nothing here" in found.reason
    assert f"no defined samples of {null}" in judged(frame).reason
    # What was measured speaks for itself, whatever is said of conditions that were not.
    frame = frame.assign(reason=np.where(frame.value.isna(), "usable at too few levels: 2", None))
    found = judged(frame, undefined={("inverse-n5", null): "not run"})
    assert f"no defined samples of {null}: usable at too few levels: 2" in found.reason


def test_an_effect_that_cannot_be_compared_with_the_optimum_is_not_supported_but_may_be_absent(rng):
    undefined = {("inverse-n5", "oracle"): "the optimal energy is not known"}
    for levels, expected in (
        (FAR, "INCONCLUSIVE"),
        (CASES["ABSENT"], "ABSENT"),
        (CASES["ARTEFACT"], "ARTEFACT"),
    ):
        frame = samples(rng, levels)
        found = judged(frame[frame.condition != "oracle"], undefined=undefined)
        assert found.verdict == expected
    assert "not known" in judged(samples(rng, FAR).query("condition != 'oracle'"), undefined=undefined).reason


def test_a_hypothesis_that_needs_no_oracle_is_supported_without(rng):
    hypothesis = REGISTRATION["circuits"]
    levels = dict.fromkeys(hypothesis.nulls, -1.0)
    found = judged(samples(rng, levels, hypothesis=hypothesis), {("circuits", "inverse-n5"): 0.0})
    assert found.verdict == "SUPPORTED"


def test_nulls_on_other_problems_are_not_paired(rng):
    frame = samples(rng, FAR)
    frame.loc[frame.condition == "random_init", "problem_id"] += 1000
    found = judged(frame)
    assert found.verdict == "INCONCLUSIVE"
    assert "random_init is missing: shares no seed and problem with trained" in found.reason


def test_effects_are_paired_differences(rng):
    """Spread shared by all conditions, however large, leaves the contrast as it is."""
    frame = samples(rng, FAR)
    shared = 1e3 * rng.standard_normal((8, 20))
    moved = frame.assign(value=frame["value"] + shared[frame["seed"], frame["problem_id"]])
    first, second = judged(frame), judged(moved)
    assert second.verdict == "SUPPORTED"
    for null in HYPOTHESIS.nulls:
        np.testing.assert_allclose(second.contrasts[null].ci95, first.contrasts[null].ci95, atol=1e-9)


def test_contrasts_are_means_over_seeds_of_paired_differences_with_exact_p(rng):
    frame = samples(rng, FAR, noise=5 * SESOI)
    frame = frame.drop(frame.query("condition == 'shuffled_x' and seed == 3 and problem_id < 7").index)
    found = judged(frame)
    wide = frame.pivot(index=["seed", "problem_id"], columns="condition", values="value")
    for null, contrast in found.contrasts.items():
        means = (wide["trained"] - wide[null]).groupby("seed").mean()
        assert contrast.effect == pytest.approx(means.mean())
        expected = scipy.stats.permutation_test(
            (means,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert contrast.p == pytest.approx(expected.pvalue)
        assert contrast.ci95[0] < contrast.ci90[0] < contrast.effect < contrast.ci90[1] < contrast.ci95[1]
        assert (contrast.seeds, contrast.problems) == (8, 20)
    assert found.p == max(found.contrasts[null].p for null in HYPOTHESIS.nulls)


@pytest.mark.parametrize("levels", CASES.values(), ids=CASES)
def test_names_of_seeds_and_problems_and_the_order_of_rows_leave_the_verdict(levels, rng):
    frame = samples(rng, levels)
    renamed = frame.assign(
        seed=rng.permutation(8)[frame["seed"]] * 17,
        problem_id=pd.Series([f"p{k}" for k in rng.permutation(20)])[frame["problem_id"]].to_numpy(),
    ).sample(frac=1, random_state=1)
    first, second = judged(frame), judged(renamed)
    assert first.verdict == second.verdict
    assert first.p == second.p
    assert second.hardest.effect == pytest.approx(first.contrasts[second.hardest.condition].effect)


@pytest.mark.parametrize("levels", CASES.values(), ids=CASES)
@pytest.mark.parametrize("factor", [1e-6, 40.0])
def test_another_unit_of_value_and_sesoi_leaves_the_verdict(levels, factor, rng):
    frame = samples(rng, levels)
    scaled = replace(FAST, hypotheses=(replace(HYPOTHESIS, sesoi=factor * SESOI),))
    found = judged(frame.assign(value=factor * frame["value"]), registration=scaled)
    assert found.verdict == judged(frame).verdict


def test_the_same_samples_give_the_same_numbers_whatever_else_is_judged(rng):
    frame = samples(rng, FAR, noise=SESOI)
    other = samples(rng, FAR, family="addition-n5", problems=11)
    alone, again = judged(frame), judged(frame)
    together = next(v for v in judge(FAST, pd.concat([other, frame]), PASSED) if v.family == "inverse-n5")
    assert alone == again
    assert alone.contrasts == together.contrasts


def test_everything_not_measured_is_inconclusive_and_says_so(rng):
    found = judge(FAST, samples(rng, FAR), PASSED)
    assert len(found) == sum(len(hypothesis.tasks) for hypothesis in REGISTRATION.hypotheses)
    unmeasured = [v for v in found if not v.family]
    assert len(unmeasured) == len(found) - 1
    assert {v.verdict for v in unmeasured} == {"INCONCLUSIVE"}
    assert {v.reason for v in unmeasured if v.hypothesis.id == "circuits"} == {
        f"not run: no samples of circuits on {task}" for task in ("addition", "inverse", "completion")
    }
    assert len(judge(FAST, samples(rng, FAR).iloc[:0], {})) == len(found)


def many_families(rng, levels, count):
    return pd.concat([samples(rng, levels, family=f"inverse-n{k}") for k in range(count)])


@pytest.mark.parametrize(("families", "expected"), [(6, "SUPPORTED"), (7, "INCONCLUSIVE")])
def test_eight_seeds_support_at_most_six_tests_at_once(families, expected, rng):
    gates = {("hessian", f"inverse-n{k}"): 0.0 for k in range(families)}
    found = [v for v in judge(FAST, many_families(rng, FAR, families), gates) if v.family]
    np.testing.assert_allclose([v.p_holm for v in found], holm([2 / 2**8] * families))
    assert {v.verdict for v in found} == {expected}
    if expected == "INCONCLUSIVE":
        assert "with 8 seeds and 7 tests none can fall below 0.0547, train at least 9" in found[0].reason


def test_a_pair_whose_p_is_undefined_still_counts_in_the_correction(rng):
    frame = many_families(rng, FAR, 3)
    frame = frame[(frame.family != "inverse-n2") | (frame.condition != "shuffled_x")]
    found = {v.family: v for v in judge(FAST, frame, {}) if v.family}
    assert found["inverse-n0"].p_holm == pytest.approx(3 * 2 / 2**8)
    assert np.isnan(found["inverse-n2"].p_holm)


def test_an_effect_of_only_the_sesoi_is_seldom_supported_and_four_times_it_mostly(rng):
    replicates, alpha = 30, 0.05
    registration = replace(FAST, draws=400)
    for level, often in ((-SESOI, False), (-4 * SESOI, True)):
        levels = dict.fromkeys(FAR, level) | {"oracle": -10.0}
        verdicts = [
            judged(samples(rng, levels, problems=12, noise=SESOI), registration=registration).verdict
            for _ in range(replicates)
        ]
        count = verdicts.count("SUPPORTED")
        bound = {"p": 0.8, "alternative": "less"} if often else {"p": alpha, "alternative": "greater"}
        assert scipy.stats.binomtest(count, replicates, **bound).pvalue > 1e-6, (level, verdicts)


def test_the_tables_hold_what_the_verdicts_say(rng):
    frame = samples(rng, CASES["ARTEFACT"])
    verdicts = judge(FAST, frame[frame.condition != "oracle"], PASSED)
    found = next(v for v in verdicts if v.family)
    table = verdict_table(verdicts, FAST, "snakemake verdicts")
    assert table.num_rows == len(verdicts)
    row = next(row for row in table.to_pylist() if row["family"])
    assert (row["hypothesis"], row["experiment"], row["task"]) == (
        "spectrum_progression",
        "EXP-001",
        "inverse",
    )
    assert (row["verdict"], row["reason"], row["expected"]) == ("ARTEFACT", found.reason, "PREDICTED")
    assert row["hardest_null"] == "oracle_noise"
    assert (row["ci_lo"], row["ci_hi"]) == found.contrasts["oracle_noise"].ci95
    assert (row["oracle_effect"], row["p_perm"], row["p_holm"]) == (None, found.p, found.p_holm)
    assert (row["n_seeds"], row["n_problems"], row["gate_passed"]) == (8, 20, True)
    assert row["null_set"] == "random_init permuted_weights shuffled_x permuted_targets oracle_noise"
    assert (row["hypotheses_sha256"], row["reproduce"]) == (REGISTRATION.sha256, "snakemake verdicts")
    empty = next(row for row in table.to_pylist() if not row["family"])
    assert (empty["effect"], empty["p_perm"], empty["gate_passed"], empty["n_seeds"]) == (None, None, None, 0)

    rows = {row["condition"]: row for row in contrast_table(verdicts).to_pylist()}
    assert list(rows) == list(HYPOTHESIS.conditions[1:])
    assert [row["role"] for row in rows.values()] == ["naive"] * 2 + ["artefact"] * 3 + ["oracle"]
    assert (rows["oracle"]["effect"], rows["oracle"]["reason"]) == (None, "no defined samples of oracle")
    for null in HYPOTHESIS.nulls:
        contrast = found.contrasts[null]
        assert (rows[null]["ci_lo"], rows[null]["ci_hi"]) == contrast.ci95
        assert (rows[null]["ci90_lo"], rows[null]["ci90_hi"]) == contrast.ci90
        assert (rows[null]["effect"], rows[null]["p_perm"]) == (contrast.effect, contrast.p)
        # Equivalence by p and by interval is one and the same.
        inside = contrast.ci90[0] > -SESOI and contrast.ci90[1] < SESOI
        assert inside == (rows[null]["p_equivalence"] < FAST.alpha)


def test_tables_without_any_verdict_keep_their_columns():
    assert verdict_table([], REGISTRATION, "").column_names[0] == "hypothesis"
    assert (
        contrast_table(judge(REGISTRATION, pd.DataFrame(columns=[*SAMPLE_KEYS, "value"]), {})).num_rows == 0
    )


def test_verdict_of_one_hypothesis_is_that_of_all(rng):
    frame = pd.concat([samples(rng, FAR), samples(rng, FAR, family="addition-n5")])
    found = verdict("spectrum_progression", frame, PASSED, registration=FAST)
    assert [(v.task, v.family) for v in found] == [
        ("addition", "addition-n5"),
        ("inverse", "inverse-n5"),
        ("completion", ""),
    ]
    assert found[1] == next(v for v in judge(FAST, frame, PASSED) if v.family == "inverse-n5")
    with pytest.raises(
        ConfigError, match="unknown hypothesis 'progress': use one of spectrum_progression, grass"
    ):
        verdict("progress", frame, PASSED, registration=FAST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="seed"), "no column 'seed'; they need hypothesis, task, family"),
        (lambda frame: frame.assign(seed=None), "'seed' is empty in some rows"),
        (
            lambda frame: frame.assign(hypothesis="h7"),
            "hypothesis 'h7' is not registered; registered are spectrum",
        ),
        (
            lambda frame: frame.assign(hypothesis="manifold_curvature", task="addition"),
            "'manifold_curvature' is not registered for task 'addition'; leave these rows out",
        ),
        (
            lambda frame: frame.assign(condition="untrained"),
            "unknown condition 'untrained'; use trained, random_init",
        ),
        (
            lambda frame: frame.assign(problem_id=0),
            "occurs twice; give one value per seed, problem and condition",
        ),
    ],
)
def test_samples_that_do_not_fit_the_registration_are_refused(change, message, rng):
    with pytest.raises(TableError, match=message):
        judge(FAST, change(samples(rng, FAR)), PASSED)
