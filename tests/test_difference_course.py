"""When networks in training get the properties of an optimum that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iredinterp.analyses.difference import course
from iredinterp.analyses.difference.course import (
    NEVER,
    NO_ORACLE,
    NOT_OPTIMAL,
    PROPERTIES,
    Probe,
    Searching,
    course_table,
    first_lasting,
)
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.course import snapshot_steps
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.ired.training import Phase, Recipe, initial_state
from iredinterp.truth.oracle import BayesOracle

SCHEDULE = cosine_schedule()
SPEC = ProblemSpec("inverse", 2)
TINY = Recipe(SPEC, hidden=8, phases=(Phase(30, 1e-2, False),), batch=16, warmup=2)
TOLERANCES = dict.fromkeys(PROPERTIES, 0.1)
SETTINGS = {"tolerances": TOLERANCES, "snapshots": 7, "problems": 3, "levels": [8, 1], "search_steps": 5}


def probe_of(oracle, seed=0, levels=(8, 1)):
    return Probe.draw(TINY, 4, levels, oracle, seed, Searching(starts=2, steps=30))


def bowl(factor=1.0, shift=None):
    """E = factor‖y − √ᾱ_t x⁻¹ − v_t‖²/(2σ_t): the optimum of inversion, scaled and moved."""

    def function(x, y, t):
        answer = torch.linalg.inv(x.unflatten(1, (2, 2))).flatten(1)
        centre = SCHEDULE.sqrt_alphas_cumprod[t, None] * answer
        if shift is not None:
            centre = centre + shift[t]
        return factor * (y - centre).square().sum(1) / (2 * SCHEDULE.sigma[t])

    return CallableEnergy(function, 4, 4)


def rows_of(table, metric, which=None, **where):
    frame = table.to_pandas()
    frame = frame[frame["metric"] == metric]
    if which is not None:
        frame = frame[frame["component"] == which]
    for key, value in where.items():
        frame = frame[frame[key] == value]
    assert len(frame), (metric, which, where)
    return frame


def test_what_lasts_is_what_a_loop_from_the_end_finds(generator):
    holds = torch.rand(9, 4, 5, generator=generator) < 0.8
    holds[:, 0, 0], holds[:, 0, 1] = True, False
    found = first_lasting(holds)
    for index in np.ndindex(4, 5):
        series, first = holds[(slice(None), *index)].tolist(), 9
        while first and series[first - 1]:
            first -= 1
        assert found[index] == first
    assert (found[0, 0], found[0, 1]) == (0, 9)


def test_the_optimum_deviates_in_nothing(seed):
    oracle = BayesOracle(SPEC)
    for values in probe_of(oracle, seed % 1000).deviations(oracle).values():
        torch.testing.assert_close(values, torch.zeros(2, dtype=torch.float64))


def test_a_scaled_optimum_deviates_by_its_factor(seed):
    probe = probe_of(BayesOracle(SPEC), seed % 1000)
    found = probe.deviations(bowl(1.3))
    for which in ("gradient", "hessian", "isotropy"):
        torch.testing.assert_close(
            found[which], torch.full((2,), 0.3, dtype=torch.float64), rtol=1e-4, atol=0
        )
    for which in ("inertia", "single", "right"):
        assert (found[which] == 0).all()
    found = probe.deviations(bowl(-1.0))
    torch.testing.assert_close(
        found["gradient"], torch.full((2,), 2.0, dtype=torch.float64), rtol=1e-4, atol=0
    )
    for which in ("inertia", "single", "right"):
        assert (found[which] == 1).all()


def test_a_moved_optimum_has_one_minimum_and_it_is_right_while_it_is_near(generator):
    probe = probe_of(BayesOracle(SPEC))
    direction = torch.nn.functional.normalize(torch.randn(4, generator=generator, dtype=torch.float64), dim=0)
    # The typical norm of the noise at a level is σ_t√d, and half of it is allowed.
    for share, wrong in ((0.4, 0), (0.6, 1)):
        shift = share * 2 * SCHEDULE.sigma[:, None] * direction
        found = probe.deviations(bowl(shift=shift))
        assert (found["single"] == 0).all()
        assert (found["right"] == wrong).all()
        noise = (probe.y - probe.answers) / probe.sigma[:, None]
        expected = (2 * share / noise.norm(dim=1)).unflatten(0, (2, -1)).mean(1)
        torch.testing.assert_close(found["gradient"], expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(found["hessian"], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-4)


def test_landscapes_with_starts_on_both_sides_of_a_ridge_have_not_one_minimum(seed):
    def function(x, y, t):
        scale = SCHEDULE.sqrt_alphas_cumprod[t]
        return ((y[:, 0] / scale).square() - 1).square() + y[:, 1:].square().sum(1)

    probe = probe_of(BayesOracle(SPEC), seed % 1000, levels=(5,))
    found = probe.deviations(CallableEnergy(function, 4, 4))
    # A Newton step on |∇²E| leaves the sign of the first coordinate as it is.
    sides = probe.starts[..., 0].sign().sum(1).abs() < probe.starts.shape[1]
    torch.testing.assert_close(found["single"], sides.double().mean(0, keepdim=True))


def test_a_property_appears_where_the_course_was_made_to_have_it(monkeypatch, generator):
    final, early = (EnergyMLP.random(4, 4, 8, generator) for _ in range(2))
    at = snapshot_steps(TINY.steps, 7)
    last = len(at) - 1
    # One seed has the final network early on, loses it and gets it back; the other has it from the start.
    plan = {0: [0, 1, 0, 0, *[1] * (last - 3)], 1: [1] * len(at)}

    def states(recipe, seeds, steps, device):
        start = initial_state(recipe, seeds, device)
        for index, step in enumerate(steps.tolist()):
            raw = {
                name: torch.stack(
                    [(final if plan[s][index] else early).parameters[name] for s in sorted(plan)]
                )
                for name in final.parameters
            }
            yield replace(start, step=step, raw=raw)

    monkeypatch.setattr(course, "trained_states", states)
    optimum = MLPEnergy(final.to(torch.float64))
    table = course_table(TINY, "made", [0, 1], optimum, **SETTINGS)
    for which in ("gradient", "hessian"):
        assert (rows_of(table, "first_step", which, seed=0)["value"] == at[4]).all()
        assert (rows_of(table, "first_step", which, seed=1)["value"] == 0).all()
    # Whatever it is, a network that is the optimum has what the optimum has.
    for which in PROPERTIES:
        own = rows_of(table, "optimum_deviation", which).set_index("t")["value"]
        for _, row in rows_of(table, "first_step", which, seed=1).iterrows():
            if own[row["t"]] > TOLERANCES[which]:
                assert row["reason"] == NOT_OPTIMAL
            else:
                assert row["value"] == 0
    plan[0] = [1] * last + [0]
    table = course_table(TINY, "made", [0, 1], optimum, **SETTINGS)
    assert set(rows_of(table, "first_step", "hessian", seed=0)["reason"]) == {NEVER}


def test_first_steps_are_those_of_the_deviations_in_the_same_table(seed):
    table = course_table(
        TINY, "tiny", [seed % 100, seed % 100 + 1], BayesOracle(SPEC), seed=seed % 1000, **SETTINGS
    )
    for _, row in rows_of(table, "first_step").iterrows():
        here = rows_of(table, "deviation", row["component"], seed=row["seed"], t=row["t"]).sort_values("step")
        inside = (here["value"] <= TOLERANCES[row["component"]]).to_numpy()
        steps, first = here["step"].to_numpy(), len(inside)
        while first and inside[first - 1]:
            first -= 1
        assert np.isnan(row["value"]) if first == len(inside) else row["value"] == steps[first]
        assert row["reason"] == NEVER if first == len(inside) else row.isna()["reason"]
    assert set(rows_of(table, "deviation")["step"]) == set(snapshot_steps(30, 7).tolist())
    assert (rows_of(table, "optimum_deviation")["value"] < 1e-9).all()
    assert (rows_of(table, "tolerance")["value"] == 0.1).all()


def test_without_an_optimum_no_property_is_defined():
    table = course_table(TINY, "tiny", [0], None, **SETTINGS)
    assert set(rows_of(table, "first_step")["reason"]) == {NO_ORACLE}
    for which in ("gradient", "hessian", "isotropy", "inertia"):
        assert set(rows_of(table, "deviation", which)["reason"]) == {NO_ORACLE}
    assert rows_of(table, "deviation", "single")["value"].notna().all()


def test_bad_settings_of_a_course_are_refused():
    oracle = BayesOracle(SPEC)
    with pytest.raises(ConfigError, match=r"difference.course.snapshots: found 2, allowed ≥ 3"):
        course_table(TINY, "tiny", [0], oracle, tolerances=TOLERANCES, snapshots=2)
    with pytest.raises(ConfigError, match=r"difference.course.levels: found \[10\]; name levels of 0 … 9"):
        course_table(TINY, "tiny", [0], oracle, tolerances=TOLERANCES, levels=[10])
    with pytest.raises(ConfigError, match=r"difference.course.tolerances: found right; give one for each of"):
        course_table(TINY, "tiny", [0], oracle, tolerances={"right": 0.1})
