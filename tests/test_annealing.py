"""EXP-010 on landscapes whose runs are known: planted networks, Gaussian posteriors, optima, power laws."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.stats
import torch

from iredinterp.analyses.annealing import annealing_table
from iredinterp.analyses.annealing.arms import arms_of
from iredinterp.analyses.annealing.calibration import (
    calibration,
    ranks,
    slope_and_correlation,
    worst_quarter_auroc,
)
from iredinterp.analyses.annealing.ledger import curvatures
from iredinterp.analyses.annealing.modes import (
    Directions,
    coarse_first_exponent,
    settled_level,
    singular_directions,
)
from iredinterp.analyses.annealing.names import FULL
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import normal_draws
from iredinterp.tables import tensor_array
from iredinterp.truth.analytic import GaussianPosterior, QuadraticEnergy, haar_orthogonal
from iredinterp.truth.oracle import BayesOracle
from iredinterp.truth.planted import EVERY_DECOY, planted
from iredinterp.truth.planted.truth import planted_schedule

N, D, COUNT, K, FEW = 3, 9, 4, 10, 4
KEYS = {"model": "planted", "condition": "trained", "task": "inverse", "n": N}
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def table_of(x, y_star):
    """Problems whose x is a vector and whose answers are N×N."""
    ids = pa.array(range(len(x)), pa.int32())
    answers = tensor_array(y_star.reshape(-1, N, N))
    return pa.table({"problem_id": ids, "x": tensor_array(x), "y_star": answers})


def first_states(seed, count=COUNT):
    return normal_draws(seed, "first_state", range(count), 1, D)[:, 0]


def rows_of(table, metric, component=""):
    chosen = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], component))
    frame = table.filter(chosen).to_pandas()
    assert len(frame), f"no rows of {metric} {component!r}"
    return frame


def values(table, metric, component=""):
    """Levels K−1 … 0 of trajectories, (K, P), or answers, (P,); with a last axis where there is an index."""
    frame = rows_of(table, metric, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    frame = frame.sort_values(["t", "problem_id", "index"], ascending=[False, True, True])
    shape = [frame[name].nunique() for name in ("t", "problem_id", "index")]
    if frame["point_kind"].iloc[0] == "answer":
        shape = shape[1:]
    found = torch.tensor(frame["value"].to_numpy()).reshape(shape)
    return found.squeeze(-1) if shape[-1] == 1 else found


def reason(table, metric, component=""):
    frame = rows_of(table, metric, component)
    assert frame["value"].isna().all(), f"{metric} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def attractor(rate=1.0, offset=lambda x, t: 0):
    """E = rate·‖y − √ᾱ_t x‖²/(2σ_t) + c(x, t) on a few levels: where its minimum lies is for x to say."""
    s = cosine_schedule(FEW)

    def function(x, y, t):
        distance = (y - s.sqrt_alphas_cumprod[t, None] * x).square().sum(-1)
        return rate * distance / (2 * s.sigma[t]) + offset(x, t)

    return CallableEnergy(function, D, D, schedule=s)


def gaussian(generator, deviations):
    """A linear task with that posterior, its problems at the posterior mean, and its eigenbasis."""
    Q = haar_orthogonal(D, generator)
    slope = normal(generator, D, 4) / 8
    energy = GaussianPosterior(slope=slope, covariance=(Q * deviations.square()) @ Q.mT)
    x = normal(generator, COUNT, 4)
    return energy, x, x @ slope.mT, Q


def test_later_inner_steps_of_the_released_sampler_are_twice_as_long(seed, generator):
    deviations = 0.05 + 0.6 * torch.rand(D, generator=generator, dtype=torch.float64)
    energy, x, answer, Q = gaussian(generator, deviations)
    table = annealing_table(energy, table_of(x, answer), KEYS, seed=seed)
    assert not values(table, "clamped", "jump").any()
    assert (values(table, "accept_rate") == 1).all()
    s, found = energy.schedule, values(table, "answer_error").sqrt()
    for multiple in (1, 2):
        error = (first_states(seed) / s.sqrt_alphas_cumprod[9] - answer) @ Q
        expected = []
        for t in reversed(range(K)):
            curvature = s.sigma[t] / (s.abar[t] * deviations.square() + s.sigma[t] ** 2)
            step = s.opt_step_size[t] * curvature
            error = error * (1 - s.sigma[t] * curvature) * (1 - step) * (1 - multiple * step) ** 4
            expected.append(error.square().mean(1).sqrt())
        assert ((found - torch.stack(expected)).abs().max() < 1e-9) == (multiple == 2)


def test_planted_network_runs_as_its_formula_says_in_every_direction(seed, generator):
    # Gated branches make inner steps overshoot, which the formula does not know of.
    case = planted(6, D, seed, decoys=EVERY_DECOY | {"gated": 0})
    x, y_star = normal(generator, COUNT, 6) / 4, normal(generator, COUNT, D)
    energy = MLPEnergy(case.model)
    table = annealing_table(energy, table_of(x, y_star), KEYS, seed=seed, krylov=D)
    answers = case.truth.trajectory(x, first_states(seed))
    torch.testing.assert_close(values(table, "answer_error"), (answers - y_star).square().mean(-1), **EXACT)

    errors, exponents = np.empty((K, COUNT, N)), np.empty((K, COUNT))
    for problem, Y in enumerate(y_star.reshape(-1, N, N).numpy()):
        U, s, Vh = np.linalg.svd(Y)
        for k in range(K):
            off = answers[k, problem].reshape(N, N).numpy() - Y
            errors[k, problem] = [abs(U[:, i] @ off @ Vh[i]) for i in range(N)]
            exponents[k, problem] = -np.polyfit(np.log(s), np.log(errors[k, problem]), 1)[0]
    loose = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(values(table, "mode_error", "singular"), torch.tensor(errors), **loose)
    torch.testing.assert_close(values(table, "coarse_first_exponent"), torch.tensor(exponents), **loose)

    levels = torch.arange(K - 1, -1, -1)
    largest = case.truth.spectrum.amax(1)[levels, None].expand(K, COUNT)
    step = case.truth.schedule.opt_step_size[levels, None]
    torch.testing.assert_close(values(table, "stability"), 2 * step * largest, rtol=1e-8, atol=0)
    assert (values(table, "gradient_evaluations") == 6).all()


def test_moves_contract_a_quadratic_energy_as_its_curvature_along_them_says(seed, generator):
    # The minimum does not scale with √ᾱ_t, so that the state moves at every level.
    spectrum = 0.2 + torch.rand(K, D, generator=generator, dtype=torch.float64)
    centre = torch.rand(D, generator=generator, dtype=torch.float64) / 100
    energy = QuadraticEnergy(spectrum=spectrum, eigenbasis=haar_orthogonal(D, generator), centre=centre)
    x, answer = normal(generator, COUNT, 1), normal(generator, COUNT, D)
    table = annealing_table(energy, table_of(x, answer), KEYS, seed=seed)
    run = sample(energy, x, init=first_states(seed))
    s = energy.schedule
    for part, start, end, size in (
        ("jump", run.entered, run.states[:, 0], s.sigma),
        ("inner steps", run.states[:, 0], run.states[:, 1], s.opt_step_size),
    ):
        expected = torch.empty(K, COUNT, dtype=torch.float64)
        for k, t in enumerate(reversed(range(K))):
            H, move = energy.hessian(x, start[k], t), end[k] - start[k]
            rayleigh = torch.einsum("bi,bij,bj->b", move, H, move) / move.square().sum(1)
            expected[k] = 1 - size[t] * rayleigh
        moved = (end - start).norm(dim=-1) / (3 * s.sigma.flip(0)[:, None])
        for kind in ("measured", "predicted"):
            found = values(table, "contraction", f"{part}, {kind}")
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        if part == "jump":
            torch.testing.assert_close(values(table, "moved", part), moved, **EXACT)
    before = torch.stack([energy.energy(x, run.entered[k], 9 - k) for k in range(K)])
    after = torch.stack(
        [energy.energy(x, s.sqrt_alphas_cumprod[9 - k] * run.answers[k], 9 - k) for k in range(K)]
    )
    total = values(table, "energy_change", "jump") + values(table, "energy_change", "inner steps")
    torch.testing.assert_close(total, after - before, rtol=1e-8, atol=1e-10)


def test_curvature_met_by_a_long_move_differs_from_that_at_its_start_as_the_cubic_says(generator):
    y, m = normal(generator, 5, D), normal(generator, 5, D)
    # E = Σ y⁴/4.
    seen, told = curvatures(y, m, (y + m) ** 3 - y**3, 3 * y**2 * m)
    size = m.square().sum(1)
    torch.testing.assert_close(seen, (3 * y**2 * m**2 + 3 * y * m**3 + m**4).sum(1) / size)
    torch.testing.assert_close(told, (3 * y**2 * m**2).sum(1) / size)
    assert torch.isnan(curvatures(y, 1e-16 * m, m, m)[0]).all()


@pytest.mark.parametrize("schedule", [cosine_schedule(), planted_schedule()], ids=["exact", "released"])
def test_one_jump_down_the_optimal_energy_of_addition_lands_and_every_arm_ties(schedule, seed, generator):
    problems = draw_problems(ProblemSpec("addition", N), COUNT, generator)
    oracle = BayesOracle(problems.spec, schedule=schedule)
    table = annealing_table(oracle, table_of(problems.x, problems.y_star), KEYS, seed=seed)
    assert (values(table, "answer_error") < 1e-12).all()
    for arm in arms_of(K, seed):
        assert (values(table, "arm_log_ratio", arm) == 0).all(), arm
    assert (values(table, "settled_level", "measured") == 9).all()
    assert (values(table, "estimate_error", "predicted") < 1e-9).all()
    rate = (2 * schedule.opt_step_size / schedule.sigma).flip(0)[:, None].expand(K, COUNT)
    torch.testing.assert_close(values(table, "stability"), rate, rtol=1e-7, atol=0)
    assert reason(table, "error_reduction") == "the answer is right to rounding before or after the level"
    assert reason(table, "coarse_first_exponent", "random").endswith("or an error within rounding")
    assert reason(table, "calibration_r2", "runs") == "the answers or their errors do not differ"
    assert reason(table, "accept_disagreement").startswith("a formula, not a network")


def walk(start, mean, deviations, arm, s):
    """An arm on a Gaussian posterior with the axes as eigenvectors, entry by entry; the unscaled answer."""
    s = {name: value.numpy() for name, value in s.buffers().items()}
    y, previous = start, None
    for t in arm.levels:
        scale, sigma = s["sqrt_alphas_cumprod"][t], s["sqrt_one_minus_alphas_cumprod"][t]
        y = y if previous is None else y / s["sqrt_alphas_cumprod"][previous] * scale
        curvature = sigma / (s["alphas_cumprod"][t] * deviations**2 + sigma**2)
        for step in [sigma] + [s["opt_step_size"][t] * (1 + (i > 0)) for i in range(arm.inner_steps)]:
            y = np.clip(y - step * curvature * (y - scale * mean), -2 * scale, 2 * scale)
        previous = t
    return y / s["sqrt_alphas_cumprod"][previous]


def test_arms_end_where_their_levels_lead_and_annealing_pays_where_answers_stay_uncertain(seed, generator):
    count = 40
    deviations = 0.3 + 0.4 * torch.rand(D, generator=generator, dtype=torch.float64)
    slope = normal(generator, D, 4) / 8
    energy = GaussianPosterior(slope=slope, covariance=torch.diag(deviations**2))
    x = normal(generator, count, 4)
    answer = x @ slope.mT
    table = annealing_table(energy, table_of(x, answer), KEYS, seed=seed)
    start = first_states(seed, count).numpy()
    full, floor = values(table, "arm_error", FULL), 1e-12 * answer.square().mean(1)
    for name, arm in arms_of(K, seed).items():
        ended = walk(start, answer.numpy(), deviations.numpy(), arm, energy.schedule)
        expected = torch.tensor(((ended - answer.numpy()) ** 2).mean(1))
        torch.testing.assert_close(values(table, "arm_error", name), expected, rtol=1e-6, atol=1e-12)
        ratio = (values(table, "arm_error", name).maximum(floor) / full.maximum(floor)).log()
        torch.testing.assert_close(values(table, "arm_log_ratio", name), ratio, rtol=1e-6, atol=1e-9)
        assert (values(table, "arm_evaluations", name) == len(arm.levels) * (1 + arm.inner_steps)).all()
    annealed, sharpest = (values(table, "arm_error", f"jumps {of}") for of in ("only", "at the sharpest"))
    assert (annealed < sharpest).all()


def test_arms_of_equal_cost_differ_in_their_levels_alone(seed):
    arms = arms_of(K, seed)
    down = tuple(range(9, -1, -1))
    assert arms[FULL].levels == down
    assert arms["reversed"].levels == down[::-1]
    assert arms["without the noisiest"].levels == down[1:]
    shuffled = arms["shuffled, sharpest last"].levels
    assert sorted(shuffled) == sorted(down)
    assert shuffled[-1] == 0
    costs = {name: arm.evaluations for name, arm in arms.items()}
    assert {name for name, cost in costs.items() if cost == 60} == {
        FULL,
        "reversed",
        "shuffled, sharpest last",
        "sharpest level only",
        "middle level only",
    }
    assert costs["jumps only"] == costs["jumps at the sharpest"] == 10
    assert costs["ten times the inner steps"] == 510


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.7])
def test_a_planted_power_law_of_errors_is_the_exponent_at_every_level(power, seed, generator):
    U, s, Vh = torch.linalg.svd(normal(generator, COUNT, N, N) / 4)
    # Errors that grow towards small singular values would otherwise reach where the sampler clips.
    s = s.clamp(min=0.05)
    y_star = (U * s.unsqueeze(1)) @ Vh
    wrong = y_star + 0.01 * (U * s.unsqueeze(1) ** -power) @ Vh
    table = annealing_table(attractor(), table_of(wrong.flatten(1), y_star.flatten(1)), KEYS, seed=seed)
    found = values(table, "coarse_first_exponent")
    torch.testing.assert_close(found, torch.full_like(found, power), rtol=1e-6, atol=1e-6)
    relative = values(table, "coarse_first_exponent", "relative")
    torch.testing.assert_close(relative, found + 1, **EXACT)
    errors = values(table, "mode_error", "singular") / s
    torch.testing.assert_close(values(table, "relative_mode_error", "singular"), errors, **EXACT)


def test_isotropic_errors_look_coarse_to_fine_along_any_directions_once_divided_by_singular_values(generator):
    count, n = 4000, 5
    Y, difference = normal(generator, 2, count, n, n)
    s, singular = singular_directions(Y)
    random = Directions.random(normal(generator, count, 2 * n * n), n, n)
    identity = torch.eye(n, dtype=torch.float64).expand(count, n, n)
    for basis in (random.left, random.right):
        torch.testing.assert_close(basis.mT @ basis, identity, **EXACT)
    for directions in (singular, random):
        errors = directions.errors(difference)
        absolute = coarse_first_exponent(errors, s, torch.zeros(count))
        relative = coarse_first_exponent(errors / s, s, torch.zeros(count))
        torch.testing.assert_close(relative, absolute + 1, rtol=1e-6, atol=1e-9)
        # Right code fails this once in 10⁷ tries.
        assert abs(absolute.mean()) < 5.4 * absolute.std() / math.sqrt(count)


def test_exponent_needs_two_different_singular_values_and_errors_above_rounding():
    s = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [2.0, 1.0, 0.5]]).double()
    errors = torch.tensor([[1.0, 4.0, 9.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 1e-9, 1.0]]).double()
    found = coarse_first_exponent(errors, s, torch.full((4,), 1e-6).double())
    torch.testing.assert_close(found[0], torch.tensor(2.0).double())
    assert found[1:].isnan().all()


def test_a_direction_is_settled_from_the_level_on_after_which_its_error_stays_small():
    s = torch.tensor([[1.0, 2.0, 1.0, 0.0]]).double()
    errors = torch.tensor([[[9, 0.1, 0.1, 0]], [[0.1, 9, 0.1, 0]], [[0.1, 0.3, 9, 0]]]).double()
    found = settled_level(errors, s, 0.2)
    torch.testing.assert_close(found[0, :2], torch.tensor([1.0, 0.0]).double())
    assert found[0, 2:].isnan().all()


def test_a_quadratic_energy_knows_every_error_along_its_runs(seed, generator):
    rate = 0.03
    y_star = normal(generator, COUNT, D) / 4
    energy = attractor(rate, lambda x, t: 7 * x.sum(-1) - t)
    table = annealing_table(energy, table_of(y_star, y_star), KEYS, seed=seed)
    # The slope is 2σ_0 · λ/2 with λ = rate/σ_0.
    known = {"slope": rate, "r2": 1, "rank": 1}
    for answers in ("levels", "runs"):
        for name, expected in known.items():
            value = values(table, f"calibration_{name}", answers)
            torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-5, atol=0)
        # Runs that the clamp sent to one corner of the box tie.
        assert (values(table, "wrong_answer_auroc", answers) > 0.8).all()
    assert (values(table, "answer_spread") > 0).all()


@pytest.mark.parametrize("rate", [0.4, -0.4])
def test_a_quadratic_energy_knows_the_errors_of_any_answers_and_its_reverse_mistakes_them_all(
    rate, generator
):
    y_star, answers = normal(generator, COUNT, D), normal(generator, 20, COUNT, D)
    found = calibration(attractor(rate), y_star, y_star, answers, "any")
    right = float(rate > 0)
    expected = {"calibration_slope": rate, "calibration_r2": 1, "calibration_rank": 2 * right - 1}
    for metric, value in (expected | {"wrong_answer_auroc": right}).items():
        torch.testing.assert_close(found[metric, "any"], torch.full((COUNT,), value, dtype=torch.float64))


def test_calibration_statistics_agree_with_scipy(generator):
    errors, scores = normal(generator, 2, 12, 3)
    scores[3] = scores[5]
    slope, correlation = slope_and_correlation(errors, scores)
    _, rank = slope_and_correlation(ranks(errors), ranks(scores))
    auroc = worst_quarter_auroc(errors, scores)
    for b in range(3):
        e, v = errors[:, b].numpy(), scores[:, b].numpy()
        line = scipy.stats.linregress(e, v)
        worst = np.argsort(e)[-3:]
        others = np.setdiff1d(np.arange(12), worst)
        test = scipy.stats.mannwhitneyu(v[worst], v[others]).statistic / (3 * 9)
        np.testing.assert_allclose([slope[b], correlation[b], auroc[b]], [line.slope, line.rvalue, test])
        np.testing.assert_allclose(rank[b], scipy.stats.spearmanr(e, v).statistic)


def test_an_offset_of_the_energy_changes_nothing(seed, generator):
    wrong, y_star = normal(generator, 2, COUNT, D) / 2
    plain, offset = (
        annealing_table(attractor(0.03, c), table_of(wrong, y_star), KEYS, seed=seed)
        for c in (lambda x, t: 0, lambda x, t: 9 * (x.sum(-1) + t).sin())
    )
    assert offset.drop_columns(["value"]).equals(plain.drop_columns(["value"]))
    pair = (torch.tensor(table["value"].to_numpy(zero_copy_only=False)) for table in (offset, plain))
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_error_of_an_estimate_is_that_of_the_gradient_times_the_gain(seed, generator):
    energy = MLPEnergy(EnergyMLP.random(D, D, 32, generator).to(torch.float64))
    x, y_star = normal(generator, 2, COUNT, D)
    table = annealing_table(energy, table_of(x, y_star), KEYS, seed=seed)
    noise = normal_draws(seed, "q_sample", range(COUNT), 1, D)[:, 0]
    found, s = values(table, "estimate_error", "predicted"), energy.schedule
    for k, t in enumerate(reversed(range(K))):
        y = s.sqrt_alphas_cumprod[t] * y_star + s.sigma[t] * noise
        estimate = (y - s.sigma[t] * energy.gradient(x, y, t)) / s.sqrt_alphas_cumprod[t]
        expected = (estimate - y_star).square().mean(1).sqrt()
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-6)


def test_neither_chunks_nor_blocks_change_the_result(seed, generator):
    wrong, y_star = normal(generator, 2, COUNT, D) / 2
    problems = table_of(wrong, y_star)

    def tabled(**options):
        return annealing_table(attractor(0.03), problems, KEYS, seed=seed, **options)

    order = [(name, "ascending") for name in ("metric", "component", "index", "problem_id", "t")]
    whole = tabled().sort_by(order)
    halves = pa.concat_tables([tabled(block=slice(0, 1)), tabled(block=slice(1, None))])
    for other in (tabled(chunk=3), halves):
        other = other.sort_by(order)
        assert other.drop_columns(["value"]).equals(whole.drop_columns(["value"]))
        pair = (torch.tensor(table["value"].to_numpy(zero_copy_only=False)) for table in (other, whole))
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_fewer_than_four_runs_have_no_worst_quarter(generator):
    x = normal(generator, COUNT, D)
    with pytest.raises(ConfigError, match="runs: found 3, needs 4"):
        annealing_table(attractor(), table_of(x, x), KEYS, runs=3)
