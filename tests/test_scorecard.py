"""The scorecard on methods whose error rates are known, and the pages made of verdicts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import iredinterp.scorecard as module
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.page import Axis, render_verdicts
from iredinterp.evidence.verdicts import SAMPLE_KEYS, judge
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.scorecard import EFFECTS, Trials, recovery, render_scorecard, scorecard

SOURCE = Path(module.__file__).parent
REGISTRATION = replace(read_hypotheses(Path(__file__).parents[1] / "config/hypotheses.yaml"), draws=500)
HYPOTHESIS = REGISTRATION["spectrum_progression"]
S = HYPOTHESIS.sesoi
SPEC = ProblemSpec("inverse", 2)


def samples(rng, effects, seeds=8, problems=6, noise=0.3 * S):
    """Trained values with noise of seeds and problems about 0, every null its effect below."""
    parts = []
    for condition in HYPOTHESIS.conditions:
        value = -effects.get(condition, 0.0) + noise * rng.standard_normal((seeds, 1))
        value = value + noise * rng.standard_normal((seeds, problems))
        seed, problem = np.indices(value.shape).reshape(2, -1)
        keys = dict(zip(SAMPLE_KEYS, (HYPOTHESIS.id, "inverse", "f", condition), strict=False))
        frame = pd.DataFrame({"seed": seed, "problem_id": problem, "value": value.ravel()})
        parts.append(frame.assign(**keys))
    return pd.concat(parts, ignore_index=True)


def measured(table, measure):
    (row,) = (row for row in table if row["measure"] == measure)
    return row


def test_a_scorecard_has_every_measure_with_its_bounds(seed):
    rng = np.random.default_rng(seed)
    table = scorecard(REGISTRATION, samples(rng, {}), {"f": SPEC}, {"f": 8}, "closed", 20, seed).to_pylist()
    assert {row["family"] for row in table} == {"f"}
    assert measured(table, "spectrum_error")["value"] < 1e-10
    assert measured(table, "statistic_error")["value"] < 1e-9
    rates = ["false_positives", "false_positives_at_s", "detected_at_1s"]
    rates += [f"power_at_{size}s" for size in EFFECTS]
    for name in rates:
        row = measured(table, name)
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["replicates"] == 20
    assert {row["unit"] for row in table if row["measure"] == "time"} == {"ms per point", "s per judgement"}


def test_power_rises_from_none_to_full_as_the_effect_leaves_the_spread(seed):
    rng = np.random.default_rng(seed)
    trials = Trials(REGISTRATION, HYPOTHESIS, "inverse", rng)
    pool = rng.standard_normal((8 * len(HYPOTHESIS.conditions), 6))
    rows = list(trials.rates(pool, samples(rng, {}), "f", 40))
    assert measured(rows, "power_at_1s")["value"] <= 0.3
    assert measured(rows, "power_at_3s")["value"] >= 0.9
    assert measured(rows, "false_positives")["value"] <= 0.15
    assert measured(rows, "false_positives_at_s")["value"] <= 0.3


def test_replicates_carry_the_effect_they_were_given_and_the_measured_spread(seed):
    rng = np.random.default_rng(seed)
    trials = Trials(REGISTRATION, HYPOTHESIS, "inverse", rng)
    spread = trials.spread(samples(rng, {"random_init": 7.0}), "f")
    assert all(abs(delta.mean()) < 1e-12 for delta in spread.values())
    made = [trials.shifted(spread, dict.fromkeys(spread, 2.0))["random_init"] for _ in range(400)]
    assert -np.mean(made) == pytest.approx(2.0, abs=6 * spread["random_init"].std() / 20)
    assert np.std(made) == pytest.approx(spread["random_init"].std(), rel=0.2)


def test_a_family_that_was_not_measured_has_no_power(seed):
    rng = np.random.default_rng(seed)
    trials = Trials(REGISTRATION, HYPOTHESIS, "inverse", rng)
    pool = rng.standard_normal((8 * len(HYPOTHESIS.conditions), 6))
    rows = list(trials.rates(pool, samples(rng, {}), "another", 20))
    assert {row["measure"] for row in rows} == {"false_positives", "time"}


def test_an_engine_with_errors_is_found_out(generator, monkeypatch):
    honest = module.spectra

    def off(energy, x, y, t, engine):
        found = honest(energy, x, y, t, engine=engine)
        return replace(found, eigenvalues=found.eigenvalues * 1.01)

    monkeypatch.setattr(module, "spectra", off)
    rows = list(recovery([HYPOTHESIS], SPEC, "closed", generator))
    assert measured(rows, "spectrum_error")["value"] == pytest.approx(0.01, rel=1e-6)


def test_the_scoring_code_knows_no_analysis():
    for path in (SOURCE / "scorecard.py", *(SOURCE / "evidence").glob("*.py")):
        assert "import iredinterp.analyses" not in path.read_text()
        assert "from iredinterp.analyses" not in path.read_text()


def test_the_pages_say_what_was_found(seed, tmp_path):
    rng = np.random.default_rng(seed)
    far = dict.fromkeys(HYPOTHESIS.conditions[1:], 10 * S)
    found = judge(REGISTRATION, samples(rng, far), {("hessian", "f"): 1e-12})
    render_verdicts(found, REGISTRATION, "snakemake verdicts", tmp_path / "verdicts.html")
    page = (tmp_path / "verdicts.html").read_text()
    assert 'EXP-001 spectrum progression: f\n  <span class="badge SUPPORTED">' in page
    for text in (HYPOTHESIS.claim, *HYPOTHESIS.conditions[1:], REGISTRATION.sha256, "snakemake verdicts"):
        assert text.replace("'", "&#39;") in page
    assert page.count("not run: no samples") == sum(not verdict.family for verdict in found)
    rows = [{"method": "m", "family": "f", "measure": "power_2s", "value": 0.5, "low": 0.4, "high": 0.6}]
    table = module.pa.Table.from_pylist(rows, module.SCHEMA)
    render_scorecard(table, 12345, tmp_path / "scorecard.html")
    page = (tmp_path / "scorecard.html").read_text()
    assert "12345" in page
    assert "0.4 … 0.6" in page


def test_the_axis_holds_every_interval_and_the_smallest_effect(seed):
    rng = np.random.default_rng(seed)
    found = next(v for v in judge(REGISTRATION, samples(rng, {"oracle": 3.0}), {}) if v.family)
    ends = [end for contrast in found.contrasts.values() for end in contrast.ci95]
    axis = Axis(S, [*ends, np.nan, np.inf])
    assert all(0 < axis.at(end) < 100 for end in [*ends, -S, S])
    assert axis.at(min(ends)) < axis.at(max(ends))
    assert (axis.at(-np.inf), axis.at(np.inf)) == (0, 100)


def test_fresh_seeds_give_fresh_networks(seed):
    first, second = (
        list(recovery([HYPOTHESIS], SPEC, "closed", torch.Generator().manual_seed(seed + i)))
        for i in range(2)
    )
    assert measured(first, "spectrum_error")["value"] != measured(second, "spectrum_error")["value"]
