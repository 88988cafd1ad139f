"""EXP-007, training clock: mode times, exponents and weights of trainings whose course is known."""

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch

from iredinterp.analyses.implicit_bias.course import (
    Curvature,
    HeldOut,
    mean_square_error,
    network,
)
from iredinterp.analyses.implicit_bias.course_tables import course_tables
from iredinterp.analyses.implicit_bias.exponent import (
    ALIKE,
    AT_ONCE,
    NOTHING,
    UNLEARNT,
    fit_exponent,
    log_likelihood,
    median_time,
    over_seeds,
)
from iredinterp.analyses.implicit_bias.mode_tables import measured_modes, noise_size
from iredinterp.analyses.implicit_bias.mode_times import Modes, haar_frame, mode_times, shuffled_within
from iredinterp.analyses.implicit_bias.names import RANDOM, SHUFFLED, SINGULAR, TURNED
from iredinterp.analyses.implicit_bias.weights import weight_measures
from iredinterp.errors import ConfigError
from iredinterp.ired.course import shortened, snapshot_steps, trained_states
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import Phase, Recipe, initial_state, train
from iredinterp.truth.analytic import haar_orthogonal
from iredinterp.truth.oracle import BayesOracle

TINY = Recipe(ProblemSpec("inverse", 2), hidden=6, phases=(Phase(20, 1e-2, False),), batch=8, warmup=2)
EXACT = {"rtol": 1e-9, "atol": 1e-12}
N = 4


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def exponent_of(answers, right, steps, generator, kind=SINGULAR):
    """α of one seed whose answers at the steps are given, (K, P, n, m)."""
    n, m = right.shape[1:]
    noise = normal(generator, len(right), noise_size(n, m))
    _, times = measured_modes(answers[:, None], right, steps, noise)
    return fit_exponent(*times[kind].of_seed(0))


def known_answers(generator, sizes):
    """Right answers with these singular values, (P, r), and their bases."""
    U, V = (torch.stack([haar_orthogonal(N, generator) for _ in sizes]) for _ in range(2))
    return (U * sizes[:, None]) @ V.mT, U, V


def log_normal_times(rng, alpha, count=600, deviation=0.5):
    size = np.exp(rng.uniform(-2, 1, count))
    return size, np.exp(3 - alpha * np.log(size) + deviation * rng.standard_normal(count))


def between(times, grid):
    """Bounds of times on a grid of snapshots."""
    index = np.searchsorted(grid, times)
    bounds = np.append(grid, np.inf)
    return bounds[np.maximum(index - 1, 0)], bounds[np.maximum(index, 1)]


def test_two_linear_layers_from_a_small_start_learn_modes_in_inverse_proportion_to_their_size(generator):
    sizes = 0.3 + 3 * torch.rand(12, N, generator=generator, dtype=torch.float64).sort(1, descending=True)[0]
    right, U, V = known_answers(generator, sizes)
    start = 1e-14
    steps = snapshot_steps(100_000, 400)
    time = torch.from_numpy(steps / 100)[:, None, None]
    # Saxe, McClelland & Ganguli 2014: the closed form, divided by its exponential.
    formed = sizes / (1 + (sizes / start - 1) * torch.exp(-2 * sizes * time))
    answers = (U * formed[..., None, :]) @ V.mT
    found = exponent_of(answers, right, steps, generator)
    assert found.alpha == pytest.approx(1, abs=0.05)
    assert found.stderr < 0.02


def test_integrated_gradient_flow_of_two_layers_has_the_mode_times_of_the_closed_form(generator):
    sizes = torch.tensor([[2.5, 1.4, 0.8, 0.5]], dtype=torch.float64)
    right, U, V = known_answers(generator, sizes)
    Y, Q, start = right[0].numpy(), haar_orthogonal(N, generator).numpy(), 1e-4
    first, second = start**0.5 * Q @ V[0].numpy().T, start**0.5 * U[0].numpy() @ Q.T

    def flow(_, weights):
        A, B = weights.reshape(2, N, N)
        error = Y - B @ A
        return np.stack([B.T @ error, error @ A.T]).ravel()

    steps = snapshot_steps(3000, 300)
    time = steps / 100
    begun = np.stack([first, second]).ravel()
    path = scipy.integrate.solve_ivp(flow, (0, 30), begun, t_eval=time, rtol=1e-8, atol=1e-12)
    layers = path.y.T.reshape(-1, 2, N, N)
    answers = torch.from_numpy(layers[:, 1] @ layers[:, 0])
    modes = Modes.singular(right, normal(generator, 1, N * N * N))
    lower, upper = mode_times(modes.share(answers[:, None]), steps)
    s = sizes[0].numpy()
    half = 100 * np.log(s / start - 1) / (2 * s)
    assert (lower[0] < half * 1.001).all()
    assert (half < upper[0] * 1.001).all()


@pytest.mark.parametrize(("power", "alpha"), [(1, 1), (2, 2)])
def test_a_linear_denoiser_learns_directions_in_inverse_proportion_to_their_variance(power, alpha, generator):
    # Loss ½E‖Wy − y₀‖² at noise σ → 0: w_i reaches half of 1 at ln 2 over the variance. With s the variance
    # α is 1, with s the standard deviation 2.
    s = 0.3 + 2 * torch.rand(20, N, generator=generator, dtype=torch.float64).sort(1, descending=True)[0]
    right, U, V = known_answers(generator, s)
    steps = snapshot_steps(20_000, 300)
    rate = s**power
    formed = s * -torch.expm1(-rate * torch.from_numpy(steps / 1000)[:, None, None])
    found = exponent_of((U * formed[..., None, :]) @ V.mT, right, steps, generator)
    assert found.alpha == pytest.approx(alpha, abs=0.03)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_the_exponent_survives_forty_per_cent_censoring_and_a_fit_of_what_was_learnt_does_not(alpha, seed):
    rng = np.random.default_rng(seed)
    size, times = log_normal_times(rng, alpha, count=1500, deviation=1.0)
    end = np.quantile(times, 0.6)
    grid = np.append(0, np.geomspace(0.05, end, 40))
    lower, upper = between(times, grid)
    assert np.isinf(upper).mean() == pytest.approx(0.4, abs=0.01)
    found = fit_exponent(size, lower, upper)
    assert abs(found.alpha - alpha) < 5 * found.stderr
    assert abs(np.log(found.deviation)) < 0.2
    learnt = np.isfinite(upper)
    naive = -np.polyfit(np.log(size[learnt]), np.log(times[learnt]), 1)[0]
    if alpha:
        assert naive < alpha - 5 * found.stderr


def test_the_fit_maximises_the_likelihood_of_the_intervals_and_knows_its_spread(seed):
    rng = np.random.default_rng(seed)
    size, times = log_normal_times(rng, 1.3, 300)
    lower, upper = between(
        times, np.append(0, np.geomspace(np.quantile(times, 0.2), np.quantile(times, 0.8), 9))
    )
    found = fit_exponent(size, lower, upper)
    with np.errstate(divide="ignore"):
        low, high = np.log(lower), np.log(upper)

    def loss(parameters):
        law = scipy.stats.norm(parameters[0] - parameters[1] * np.log(size), np.exp(parameters[2]))
        return -np.log(law.cdf(high) - law.cdf(low)).sum()

    at = np.array([found.intercept, found.alpha, np.log(found.deviation)])
    best = scipy.optimize.minimize(
        loss,
        at + 0.2,
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 4000, "maxfev": 4000},
    )
    np.testing.assert_allclose(at, best.x, atol=2e-4)
    step = 1e-3 * np.eye(3)
    information = [
        [(loss(at + a + b) - loss(at + a - b) - loss(at - a + b) + loss(at - a - b)) / 4e-6 for b in step]
        for a in step
    ]
    assert found.stderr == pytest.approx(np.linalg.inv(information)[1, 1] ** 0.5, rel=1e-2)


def test_standard_errors_are_those_of_repeated_samples(seed):
    rng = np.random.default_rng(seed)
    fits = []
    for _ in range(30):
        size, times = log_normal_times(rng, 1.0, 150)
        fits.append(fit_exponent(size, *between(times, np.append(0, np.geomspace(3, 60, 12)))))
    spread = np.std([fit.alpha for fit in fits], ddof=1)
    assert np.mean([fit.stderr for fit in fits]) == pytest.approx(spread, rel=0.6)


def test_likelihoods_of_intervals_far_in_either_tail_keep_their_digits():
    low, high = torch.tensor([-31.0, 30.0, -torch.inf, 20.0]), torch.tensor([-30.0, 31.0, -25.0, torch.inf])
    parameters = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = log_likelihood(parameters, torch.zeros(4, dtype=torch.float64), low.double(), high.double())
    tail = scipy.stats.norm.logcdf
    expected = [tail(-30) + np.log1p(-np.exp(tail(-31) - tail(-30)))] * 2 + [tail(-25), tail(-20)]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), parameters)
    assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("size", "lower", "upper", "reason"),
    [
        ([], [], [], NOTHING),
        ([1.0, 2, 3], [9, 9, 9], [np.inf] * 3, UNLEARNT),
        ([1.0, 2, 3], [0, 0, 9], [1, 1, np.inf], UNLEARNT),
        ([1.0, 2, 3], [4, 4, 4], [8, 8, 8], AT_ONCE),
        ([2.0, 2, 2, 2], [1, 2, 4, 8], [2, 4, 8, 16], ALIKE),
        ([2.0, 2, 5, 5], [1, 2, 4, 0], [2, 4, np.inf, 1], ALIKE),
    ],
)
def test_where_nothing_or_everything_is_learnt_at_once_there_is_no_exponent(size, lower, upper, reason):
    found = fit_exponent(np.array(size), np.array(lower, float), np.array(upper, float))
    assert np.isnan(found.alpha)
    assert np.isnan(found.stderr)
    assert found.reason == reason


def test_times_in_perfect_order_have_the_exponent_of_their_line_and_the_deviation_of_the_grid():
    size = np.array([1.0, 2, 4, 8, 16])
    found = fit_exponent(size, 64 * size**-1.5, 128 * size**-1.5)
    assert found.alpha == pytest.approx(1.5, abs=1e-6)
    assert found.deviation == pytest.approx(np.log(2) / 12**0.5)
    assert 0 < found.stderr < 0.3
    assert found.intercept == pytest.approx(np.log(64 * 2**0.5), abs=1e-6)


def test_a_mode_is_learnt_between_snapshots_where_its_share_last_rises_above_half():
    steps = np.array([0, 1, 10, 100])
    share = torch.tensor(
        [
            [0.0, 0.2, 0.6, 0.9],
            [0.9, 0.1, 0.7, 0.5],
            [0.8, 0.9, 0.9, 0.4],
            [-2, -2, -2, -2.0],
            [0.9, 0.8, 3, 0.5],
            [0.1, 0.5, 1, 1],
        ]
    ).T
    lower, upper = mode_times(share, steps)
    assert lower.tolist() == [1, 1, 100, 100, 0, 0]
    assert upper.tolist() == [10, 10, np.inf, np.inf, 1, 1]
    lower, upper = mode_times(torch.full((4, 2), torch.nan), steps)
    assert np.isnan(lower).all()
    assert np.isnan(upper).all()


def test_shares_of_a_mixture_of_modes_are_its_coefficients(generator):
    sizes = torch.tensor([[3.0, 2, 1, 0]], dtype=torch.float64)
    right, U, V = known_answers(generator, sizes)
    coefficients = normal(generator, 5, 1, N)
    modes = Modes.singular(right, normal(generator, 1, N * N * N))
    share = modes.share((U * coefficients[..., None, :]) @ V.mT)
    torch.testing.assert_close(share.abs()[..., :3], (coefficients / sizes).abs()[..., :3], **EXACT)
    assert share[..., 3].isnan().all()


def test_turned_errors_keep_their_size_and_forget_the_modes(generator):
    sizes = torch.rand(400, N, generator=generator, dtype=torch.float64).sort(1, descending=True)[0] + 1
    right, U, V = known_answers(generator, sizes)
    modes = Modes.singular(right, normal(generator, 400, N * N * N))
    # An error of the first mode alone.
    errors = U[:, :, :1] @ V[:, :, :1].mT
    found = (modes.turned_share(right + errors) - 1) * sizes
    assert found.square().mean() == pytest.approx(1 / N**2, rel=0.3)
    torch.testing.assert_close(modes.turned_share(right - 3 * errors) - 1, -3 * found / sizes, **EXACT)
    torch.testing.assert_close(modes.turned_share(right), torch.ones_like(sizes), **EXACT)


def test_isotropic_errors_that_shrink_pass_for_large_modes_first_in_every_kind_but_the_shuffled(generator):
    sizes = (
        (3 * torch.rand(150, N, generator=generator, dtype=torch.float64)).exp().sort(1, descending=True)[0]
    )
    right, _, _ = known_answers(generator, sizes)
    steps = snapshot_steps(1000, 40)
    size = 100 / torch.from_numpy(steps + 1.0)[:, None, None, None]
    errors = size * normal(generator, len(steps), *right.shape)
    alphas = {
        kind: exponent_of(right + errors, right, steps, generator, kind)
        for kind in (SINGULAR, TURNED, RANDOM, SHUFFLED)
    }
    # |error| < s/2 from a step in proportion to 1/s on.
    for kind in (SINGULAR, TURNED):
        assert abs(alphas[kind].alpha - 1) < 5 * alphas[kind].stderr + 0.1
    assert alphas[RANDOM].alpha > 0.7
    assert alphas[SHUFFLED].alpha < 0.6


def test_random_frames_are_orthonormal_and_even_handed(generator):
    frames = haar_frame(normal(generator, 2000, 5, 3))
    torch.testing.assert_close(
        frames.mT @ frames, torch.eye(3, dtype=torch.float64).expand(2000, -1, -1), **EXACT
    )
    assert frames.mean(0).abs().max() < 6 / (5 * 2000) ** 0.5


def test_shuffled_sizes_are_the_same_ones_in_another_order(generator):
    size = torch.tensor([[3.0, 2, 1, 0], [5, 4, 0, 0], [7, 0, 0, 0]], dtype=torch.float64).repeat(30, 1)
    dealt = shuffled_within(size, normal(generator, *size.shape))
    assert torch.equal(dealt[0::3, :3].sort(1).values, size[0::3, :3].sort(1).values)
    assert dealt[0::3, 3].isnan().all()
    assert dealt[2::3].isnan().all()
    assert set(dealt[1::3, 0].tolist()) == {4.0, 5.0}


def test_kaplan_meier_medians_count_what_was_never_learnt(seed):
    rng = np.random.default_rng(seed)
    upper = rng.permutation(np.r_[np.arange(1.0, 61), [np.inf] * 40])
    lower = np.where(np.isinf(upper), 60, upper - 1)
    assert median_time(lower, upper) == 50
    assert np.isnan(median_time(lower, np.where(upper > 45, np.inf, upper)))
    assert np.isnan(median_time(np.array([]), np.array([])))


def test_intervals_over_seeds_are_students_and_one_seed_has_none(seed):
    values = np.random.default_rng(seed).standard_normal(5)
    mean, stderr, low, high = over_seeds(values)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert (mean, stderr) == pytest.approx((values.mean(), scipy.stats.sem(values)))
    assert np.isnan(over_seeds(values[:1])[1:]).all()


def test_ranks_of_a_planted_low_rank_change_are_its_rank(generator):
    initial = normal(generator, 2, 9, 7)
    U, V = (torch.stack([haar_orthogonal(d, generator)[:, :3] for _ in range(2)]) for d in (9, 7))
    found = weight_measures(initial + 0.7 * U @ V.mT, initial)
    for name in ("change_stable_rank", "change_effective_rank"):
        torch.testing.assert_close(found[name], torch.full((2,), 3.0, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(found["relative_change"], 0.7 * 3**0.5 / initial.norm(dim=(1, 2)), **EXACT)
    np.testing.assert_allclose(
        found["weight_singular_value"], np.linalg.svd((initial + 0.7 * U @ V.mT).numpy())[1]
    )
    assert weight_measures(initial, initial)["change_stable_rank"].isnan().all()


def test_looking_at_a_training_does_not_change_it(seed):
    steps = snapshot_steps(20, 8)
    *_, plain = train(initial_state(TINY, [seed, seed + 1]), every=7, held_out=16)
    seen = list(trained_states(TINY, [seed, seed + 1], steps))
    assert [state.step for state in seen] == steps.tolist()
    for kind in ("raw", "ema"):
        for name, value in getattr(plain, kind).items():
            assert torch.equal(getattr(seen[-1], kind)[name], value), (kind, name)
    untrained = initial_state(TINY, [seed, seed + 1]).raw
    assert all(torch.equal(seen[0].raw[name], value) for name, value in untrained.items())
    assert not torch.equal(seen[0].raw["fc1.weight"], seen[1].raw["fc1.weight"])


def test_snapshots_are_evenly_spread_on_a_logarithmic_scale_from_nothing_to_the_end():
    steps = snapshot_steps(10_000, 41)
    assert steps[:2].tolist() == [0, 1]
    assert steps[-1] == 10_000
    assert len(steps) <= 41
    ratios = np.diff(np.log(steps[steps > 100]))
    assert np.ptp(ratios) < 0.02
    with pytest.raises(ConfigError, match="snapshots: found 2, allowed ≥ 3"):
        snapshot_steps(100, 2)


def test_a_shortened_recipe_keeps_what_it_is_not_told():
    two = replace(TINY, phases=(Phase(20, 1e-2, False), Phase(9, 1e-3, True)))
    assert shortened(two, None, None, None) == two
    assert shortened(two, 5, 8, None) == replace(TINY, phases=(Phase(5, 1e-2, False),), hidden=8)


def test_answers_are_those_of_the_sampler_one_network_at_a_time(seed):
    *_, state = train(initial_state(TINY, [seed, seed + 1]), held_out=1)
    held_out = HeldOut.draw(TINY, 12, seed)
    schedule = cosine_schedule().to(torch.float32)
    found = held_out.answers(EnergyMLP(state.raw, schedule), chunk=5)
    for index in range(2):
        single = EnergyMLP({name: value[index] for name, value in state.raw.items()}, schedule)
        expected = sample(single, held_out.problems.x.float(), init=held_out.init).answers[-1]
        # Where two energies tie, rounding decides whether the sampler takes a step.
        assert ((found[index] - expected).abs() < 1e-3).double().mean() > 0.9


def test_errors_on_missing_entries_are_those_that_x_does_not_show(generator):
    problems = draw_problems(ProblemSpec("completion", 3, rank=1), 200, generator)
    answers = problems.y_star + normal(generator, 2, 200, 9)
    found = mean_square_error(answers, problems)
    missing = problems.meta["mask"].flatten(1) == 0
    squares = (answers - problems.y_star).square()
    for index in range(2):
        assert float(found["missing"][0][index]) == pytest.approx(float(squares[index][missing].mean()))
        assert float(found[""][0][index]) == pytest.approx(float(squares[index].mean()))
    assert 0 < float(found["missing"][1][0]) < 0.2


def test_hessian_errors_vanish_at_the_optimum_and_are_one_for_a_flat_energy(seed, generator):
    spec = ProblemSpec("addition", 3)
    problems = draw_problems(spec, 5, generator)
    flat = {
        name: 0 * value for name, value in initial_state(replace(TINY, problems=spec), [seed, 1]).raw.items()
    }
    networks = EnergyMLP(flat, cosine_schedule().to(torch.float32))
    curvature = Curvature.of(problems, [9, 0], BayesOracle(spec), seed, 4)
    error, stderr = curvature.errors(networks)
    torch.testing.assert_close(error, torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(stderr, torch.zeros(2, 2, dtype=torch.float64))
    untrained = EnergyMLP(initial_state(replace(TINY, problems=spec), [seed]).raw, networks.schedule)
    own = Curvature.of(problems, [9, 0], network(untrained, 0), seed, 4)
    assert float(own.errors(untrained)[0].max()) == 0
    assert Curvature.of(problems, [0], None, seed, 4).errors(networks)[0].isnan().all()
    with pytest.raises(ConfigError, match="levels: found \\[10\\]"):
        Curvature.of(problems, [10], None, seed, 4)


def rows_of(table, metric, component=""):
    chosen = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], component))
    frame = table.filter(chosen).to_pandas()
    assert len(frame), (metric, component)
    return frame


def test_a_course_writes_what_its_networks_do(seed):
    recipe = replace(TINY, problems=ProblemSpec("addition", 3), hidden=16, phases=(Phase(60, 1e-2, False),))
    settings = {"snapshots": 12, "problems": 20, "hessian_problems": 2, "levels": [9, 0], "seed": seed}
    metrics, times = course_tables(recipe, "tiny", [3, 5], BayesOracle(recipe.problems), **settings)
    steps = snapshot_steps(60, 12)
    errors = rows_of(metrics, "answer_mse")
    assert set(metrics["clock"].to_pylist()) == {"train"}
    assert set(errors["weights"]) == {"raw", "ema"}
    for weights in ("raw", "ema"):
        assert sorted(set(errors[errors["weights"] == weights]["step"])) == steps.tolist()
    *_, state = train(initial_state(recipe, [3, 5]), held_out=1)
    held_out = HeldOut.draw(recipe, 20, seed)
    answers = held_out.answers(EnergyMLP(state.raw, cosine_schedule().to(torch.float32)), 64)
    last = errors[(errors["step"] == 60) & (errors["weights"] == "raw")].sort_values("seed")["value"]
    expected = (answers - held_out.problems.y_star).square().mean((1, 2))
    np.testing.assert_allclose(last, expected, rtol=0.02)
    assert (rows_of(metrics, "hessian_error")["t"].dropna().unique() == [9, 0]).all()
    change = rows_of(metrics, "change_stable_rank", "fc2")
    assert change[change["step"] == 0]["reason"].eq("the weights have not changed yet").all()
    assert change[change["step"] > 0]["value"].notna().all()
    linear = rows_of(metrics, "baseline_mse", "linear")
    assert linear["value"].item() < 1e-15
    assert linear["seed"].isna().all()
    found = times.to_pandas()
    assert len(found) == 3 * 2 * 20 * 3
    assert found[found["upper"].isna()]["reason"].eq("never learnt").all()
    assert (found["lower"] < found["upper"].fillna(np.inf)).all()
    learnt = found[(found["directions"] == SINGULAR) & (found["seed"] == 5)]["upper"].notna().mean()
    shares = rows_of(metrics, "learnt_share", SINGULAR)
    assert shares[shares["seed"] == 5]["value"].item() == pytest.approx(learnt)


def test_answers_of_rank_one_have_one_mode_and_no_sizes_to_shuffle(seed):
    spec = ProblemSpec("completion", 3, rank=1, factors="positive", observed=0.8)
    recipe = replace(TINY, problems=spec, permuted=True)
    metrics, times = course_tables(
        recipe, "tiny", [0], None, snapshots=5, problems=8, hessian_problems=2, seed=seed
    )
    assert set(metrics["condition"].to_pylist()) == {"permuted_targets"}
    assert rows_of(metrics, "hessian_error")["reason"].str.contains("no computable").all()
    shuffled = rows_of(metrics, "exponent", SHUFFLED)
    assert shuffled["reason"].str.contains("one mode each").all()
    assert rows_of(metrics, "exponent_mean", SHUFFLED)["value"].isna().all()
    assert len(rows_of(metrics, "answer_mse", "missing")) == 2 * 5
    found = times.to_pandas()
    absent = found[(found["directions"] == SINGULAR) & (found["index"] > 0)]
    assert absent["lower"].isna().all()
    assert (absent["reason"] == "no answer has this mode").all()
