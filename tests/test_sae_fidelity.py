"""Fidelity: what the sampler does with a reconstruction, against closed forms and against doing nothing."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from sampler_case import KEYS, D, normal, problem_of, values

from iredinterp.analyses.sae.fidelity import (
    PLACES,
    descent_table,
    fidelity_table,
    level_means,
    original,
    random_directions,
    substituted,
    substitution_table,
    zero,
)
from iredinterp.errors import ConfigError
from iredinterp.ired.sampler import sample
from iredinterp.tables import Metric, read_table, tidy, write_table
from iredinterp.truth.planted import planted


@pytest.fixture
def case(seed):
    return planted(6, D, seed)


@pytest.fixture
def problem(case, generator):
    return problem_of(case, generator)


@pytest.mark.parametrize("place", [place for place in PLACES if PLACES[place][2]])
def test_the_gradient_itself_gives_the_plain_run_bit_by_bit(problem, place):
    energy, x, _, init = problem
    plain, run = sample(energy, x, init=init), substituted(energy, x, init, original, place)
    for name, value in vars(plain).items():
        assert torch.equal(getattr(run, name), value), name


def test_without_inner_gradients_inner_states_do_not_move(problem):
    energy, x, _, init = problem
    run = substituted(energy, x, init, zero, "inner")
    assert torch.equal(run.states, run.states[:, :1].expand_as(run.states))
    assert run.accepted.all()
    assert not torch.equal(run.final, init)


@pytest.mark.parametrize("place", ["jump", "both_unrejected"])
def test_a_scaled_gradient_changes_each_direction_by_its_closed_factor(problem, case, place, generator):
    energy, x, answer, init = problem
    share = 1 - 0.1 * float(torch.rand(1, generator=generator))
    run = substituted(energy, x, init, lambda g, t: share * g, place)
    assert not run.clamped.any()
    assert not run.jump_clamped.any()
    s, a = case.truth.schedule, case.truth.spectrum
    inner = share if place == "both_unrejected" else 1.0
    factor = 1 - share * s.sigma[:, None] * a
    factor *= (1 - inner * s.opt_step_size[:, None] * a) * (1 - 2 * inner * s.opt_step_size[:, None] * a) ** 4
    error = (init / s.sqrt_alphas_cumprod[9] - answer) @ case.truth.eigenbasis
    for k, t in enumerate(run.levels.tolist()):
        error = error * factor[t]
        expected = answer + error @ case.truth.eigenbasis.mT
        torch.testing.assert_close(run.answers[k], expected, rtol=1e-5, atol=1e-6)


def test_steps_that_raise_the_energy_are_undone_or_kept_as_asked(problem):
    energy, x, _, init = problem

    def uphill(g, t):
        return -g

    kept = substituted(energy, x, init, uphill, "both_unrejected")
    undone = substituted(energy, x, init, uphill, "inner")
    raised = undone.proposed_energies > undone.energies
    assert raised.any()
    assert torch.equal(undone.accepted, ~raised)
    after = torch.where(raised[:, :-1, :, None], undone.states[:, :-1], undone.states[:, 1:])
    assert torch.equal(undone.states[:, 1:], after)
    assert (kept.states[:, 1:] != kept.states[:, :-1]).any(-1)[~kept.accepted[:, :-1]].any()


def test_table_tells_error_energy_distance_and_acceptance_of_every_run(problem):
    energy, x, answer, init = problem

    def halved(g, t):
        return g / 2

    table = substitution_table(energy, x, answer, init, {"half": halved}, KEYS, places=["jump"])
    plain, half = (substituted(energy, x, init, each, "jump") for each in (original, halved))
    scale = energy.schedule.sqrt_alphas_cumprod[0]
    excess = energy.energy(x, half.final, 0) - energy.energy(x, scale * answer, 0)
    expected = {
        "mse": ((half.final - answer) ** 2).sum(1) / D,
        "energy_excess": excess,
        "displacement": (half.final - plain.final).norm(dim=1),
        "accept_rate": half.accepted.flatten(0, 1).double().mean(0),
    }
    for name, value in expected.items():
        found = values(table, name, reconstruction="half", place="jump")
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-12, atol=1e-15)
    assert (values(table, "displacement", reconstruction="original") == 0).all()
    assert sorted(set(table["reconstruction"].to_pylist())) == ["half", "original", "zero"]


def test_fidelity_is_one_for_the_gradient_zero_for_none_and_between_for_most_of_it(problem, tmp_path):
    energy, x, answer, init = problem
    some = {"same": original, "none": zero, "most": lambda g, t: 0.9 * g}
    table = substitution_table(energy, x, answer, init, some, KEYS, ["jump", "both"])
    for measure in ("mse", "energy_excess", "displacement"):
        found = fidelity_table(table, measure)
        name = f"fidelity_{measure}"
        for place in ("jump", "both"):
            assert values(found, name, reconstruction="same", place=place).tolist() == [1, 1, 1]
            assert values(found, name, reconstruction="none", place=place).tolist() == [0, 0, 0]
        estimate, low, high = values(found, name, reconstruction="most", place="jump")
        assert 0 < low <= estimate <= high < 1
    write_table(fidelity_table(table), tmp_path / "f.parquet", {})
    assert read_table(tmp_path / "f.parquet").num_rows == 2 * 5 * 3


def runs(zero, some, original):
    """A table as `substitution_table` writes it, from M of every problem."""
    parts = []
    for name, column in {"zero": zero, "some": some, "original": original}.items():
        keys = pa.table({"problem_id": range(len(column)), "reconstruction": [name] * len(column)})
        keys = keys.append_column("place", pa.array(["jump"] * len(column)))
        parts.append(tidy(keys, [Metric("mse", torch.from_numpy(column))]))
    return pa.concat_tables(parts)


def test_fidelity_is_undefined_where_the_sampler_does_not_need_the_gradient(seed):
    rng = np.random.default_rng(seed)
    m = rng.random(40)
    # Differences of both signs in equal shares: their mean is zero, whatever is drawn.
    other = m + np.repeat([1e-3, -1e-3], 20)
    found = fidelity_table(runs(m, rng.random(40), other))
    assert found["value"].null_count == len(found) == 9
    assert "does not need this gradient" in found["reason"][0].as_py()


def test_pairing_cancels_what_makes_a_problem_hard_for_all_runs(seed):
    rng = np.random.default_rng(seed)
    hardness, gain = rng.exponential(100.0, 60), 1 + rng.random(60)
    found = fidelity_table(runs(hardness + gain, hardness + 0.25 * gain, hardness))
    np.testing.assert_allclose(values(found, "fidelity_mse", reconstruction="some"), 0.75, rtol=1e-9)


def test_intervals_cover_the_ratio_as_often_as_they_say(seed):
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(60):
        gain = 1 + rng.random(50)
        share = 0.6 + 0.2 * rng.standard_normal(50)
        found = fidelity_table(
            runs(gain, gain * (1 - share), np.zeros(50)), resamples=400, seed=rng.integers(2**31)
        )
        _, low, high = values(found, "fidelity_mse", reconstruction="some")
        covered += low <= 0.6 <= high
    # Binomial(60, 0.93) lies outside of this once in a million.
    assert covered >= 44


def test_first_order_descent_is_the_share_along_g(generator):
    g, t = normal(generator, 30, 5), torch.arange(30) % 3
    problem = torch.arange(30) % 2
    # All of one problem and level, and one vector of another.
    g[::6] = 0
    g[1] = 0

    def rotated(g, t):
        return 0.3 * g + torch.cat([-g[:, 1:2], g[:, :1], torch.zeros_like(g[:, 2:])], 1)

    everything = {"rotated": rotated, "against": lambda g, t: -g, "none": zero}
    table = descent_table(g, t, problem, everything)
    shares = {"rotated": (0.3, 1), "against": (-1, 0), "none": (0, 0)}
    for name, (kept, positive) in shares.items():
        found = values(table, "descent_kept", reconstruction=name)
        assert np.isnan(found).sum() == 1
        np.testing.assert_allclose(found[~np.isnan(found)], kept, atol=1e-12)
        found = values(table, "descent_positive", reconstruction=name)
        np.testing.assert_allclose(found[~np.isnan(found)], positive)
    assert table["reason"].null_count == len(table) - 6

    def some(g, t):
        return g * (g[:, :1] > 0)

    table, rows = descent_table(g, t, problem, {"some": some}), (t == 2) & (problem == 1)
    squares, kept = g[rows].square().sum(1), g[rows][:, 0] > 0
    (found,) = values(table, "descent_kept", t=2, problem_id=1)
    assert math.isclose(found, float(squares[kept].sum() / squares.sum()), rel_tol=1e-12, abs_tol=1e-12)
    (found,) = values(table, "descent_positive", t=2, problem_id=1)
    assert math.isclose(found, float(kept.double().mean()), abs_tol=1e-12)


def test_baselines_have_the_mean_and_the_norm_they_promise(generator):
    g, t = normal(generator, 300, D) + 1, torch.arange(300) % 3
    means = level_means(g, t)
    torch.testing.assert_close(means(g[:4], 2), g[t == 2].mean(0).expand(4, -1))
    drawn = random_directions(generator)
    first, second = drawn(g, 0), drawn(g, 0)
    torch.testing.assert_close(first.norm(dim=1), g.norm(dim=1))
    assert not torch.equal(first, second)


def test_what_makes_no_sense_is_named(problem):
    energy, x, answer, init = problem
    with pytest.raises(ConfigError, match="place 'step' is unknown; use one of jump, inner"):
        substituted(energy, x, init, zero, "step")
    with pytest.raises(ConfigError, match=r"level 9 has shape \(12, 2\)"):
        substituted(energy, x, init, lambda g, t: g[:, :2], "jump")
    with pytest.raises(ConfigError, match="108 entries not finite"):
        substituted(energy, x, init, lambda g, t: g / 0, "inner")
    with pytest.raises(ConfigError, match="reconstruction 'zero' is there already"):
        substitution_table(energy, x, answer, init, {"zero": zero}, KEYS)
    table = runs(np.ones(3), np.ones(3), np.zeros(3))
    with pytest.raises(ConfigError, match="measure 'accept_rate' is unknown; use one of mse"):
        fidelity_table(table, "accept_rate")
    with pytest.raises(ConfigError, match="several rows for one run"):
        fidelity_table(pa.concat_tables([table, table]))
    with pytest.raises(ConfigError, match="problem 2 lacks a run at 'jump'"):
        fidelity_table(table.slice(0, len(table) - 1))
    with pytest.raises(ConfigError, match="at least two"):
        fidelity_table(runs(np.ones(1), np.ones(1), np.zeros(1)))
