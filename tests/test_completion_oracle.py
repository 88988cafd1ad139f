"""Posteriors of completion: graphs against scipy, free scales against quadrature, Gibbs against the prior."""

import math

import pytest
import scipy.sparse
import torch

from iredinterp.errors import TaskError
from iredinterp.ired.tasks import OFFICIAL_NOISE, SIGNAL_VARIANCE, ProblemSpec, draw_problems
from iredinterp.points import q_sample
from iredinterp.truth.completion import rank_one_factors
from iredinterp.truth.oracle import BayesOracle

DEMO = ProblemSpec("completion", 5, rank=1, factors="positive", observed=0.8)
SPARSE_POSITIVE = ProblemSpec("completion", 4, rank=1, factors="positive")
SPARSE_NORMAL = ProblemSpec("completion", 4, rank=1)
OFFICIAL = ProblemSpec("completion", 3)
LAWS = [DEMO, SPARSE_POSITIVE, SPARSE_NORMAL]


def noised(spec, count, generator, t=None):
    """Problems, levels, noise and q_sample points of a law."""
    oracle = BayesOracle(spec, seed=int(torch.randint(10**6, (), generator=generator)))
    problems = draw_problems(spec, count, generator)
    levels = torch.randint(10, (count,), generator=generator) if t is None else torch.full((count,), t)
    noise = torch.randn(count, spec.dim_y, generator=generator, dtype=torch.float64)
    return oracle, problems, levels, noise, q_sample(problems.y_star, levels, noise, oracle.schedule)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("spec", LAWS, ids=str)
def test_connected_problems_are_those_whose_bipartite_graph_scipy_finds_connected(spec, generator):
    problems = draw_problems(spec, 40, generator)
    expected, rows, columns = [], [], []
    for mask in problems.meta["mask"]:
        graph = scipy.sparse.bmat([[None, mask.numpy()], [mask.numpy().T, None]])
        count, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
        expected.append(count == 1)
        rows.append(torch.tensor(labels[: spec.n]))
        columns.append(torch.tensor(labels[spec.n :]))
    assert BayesOracle(spec).exact(problems.x).tolist() == expected
    _, _, found_rows, found_columns = rank_one_factors(problems.x.unflatten(1, (spec.n, spec.n)))
    same = found_rows[:, :, None] == found_columns[:, None]
    assert torch.equal(same, torch.stack(rows)[:, :, None] == torch.stack(columns)[:, None])


@pytest.mark.parametrize("spec", [DEMO, SPARSE_NORMAL], ids=str)
def test_an_oracle_that_was_asked_before_answers_as_a_fresh_one(spec, generator):
    seed = int(torch.randint(10**6, (), generator=generator))
    asked, t = BayesOracle(spec, seed=seed), torch.randint(10, (6,), generator=generator)
    x = torch.empty(6, spec.dim_x, dtype=torch.float64)
    for _ in range(3):
        # In place: the tensor is the same, the problems are others.
        x.copy_(draw_problems(spec, 6, generator).x)
        y = torch.randn(6, spec.dim_y, generator=generator, dtype=torch.float64)
        for part in (slice(None), slice(2, 5)):
            arguments = x[part], y[part], t[part]
            fresh = BayesOracle(spec, seed=seed)
            assert torch.equal(asked.gradient(*arguments), fresh.gradient(*arguments))
            assert torch.equal(asked.energy(*arguments), fresh.energy(*arguments))


@pytest.mark.parametrize("spec", [DEMO, SPARSE_NORMAL, ProblemSpec("completion", 9, rank=1)], ids=str)
def test_connected_rank_one_problems_are_answered_from_x_alone(spec, generator):
    oracle, problems, t, noise, y = noised(spec, 100, generator)
    exact = oracle.exact(problems.x)
    assert exact.any()
    x, y_star, t, noise, y = (part[exact] for part in (problems.x, problems.y_star, t, noise, y))
    gradient, hessian = oracle.gradient(x, y, t), oracle.hessian(x, y, t)
    sigma, scale = oracle.schedule.sigma[t], oracle.schedule.sqrt_alphas_cumprod[t]
    # At the noisiest level the answer is 1/√ᾱ = 204 times the jump.
    assert ((y - sigma[:, None] * gradient) / scale[:, None] - y_star).abs().max() < 1e-10
    assert (gradient - noise).abs().max() < 1e-10
    assert (hessian - torch.eye(spec.dim_y) / sigma[:, None, None]).abs().max() < 1e-12
    assert not oracle.standard_error(x, y, t).any()


def quadrature(spec, x, row, size=300):
    """Completions of a 2×2 rank-1 matrix with observed entries x and their weights, from Bayes' rule.

    The first row and no more is observed, or the diagonal. The mid-point rule over (u₁, u₂), with limits that
    are exact for each u₁; for normal factors u > 0, and both signs of the missing entries alike.
    """
    positive = spec.factors == "positive"
    s, low, high = (1, 0.2, 1.5) if positive else (math.sqrt(SIGNAL_VARIANCE), 1e-3, 8)
    first, second = x[0, 0] / s, (x[0, 1] if row else x[1, 1]) / s
    middles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    start = max(low, first / high, second / high if row else 0)
    stop = min(high, first / low, second / low if row else high)
    u1 = start + (stop - start) * middles[:, None]
    if row:
        lower, upper = torch.full_like(u1, low), (1.98 * u1 / x.max()).clamp(max=high)
    else:
        lower = (x[1, 1] * u1 / 1.98).clamp(min=max(low, second / high))
        upper = (1.98 * u1 / x[0, 0]).clamp(max=min(high, second / low))
    width = (upper - lower).clamp(min=0)
    u2 = lower + width * middles
    v1, v2 = first / u1, second / (u1 if row else u2)
    # dx of the two observed entries is u₁ dv₁ and u₁ (row) or u₂ (diagonal) dv₂.
    weights = (width / (u1 * (u1 if row else u2))).expand_as(u2)
    if not positive:
        weights = weights * torch.exp(-(u1.square() + u2.square() + v1.square() + v2.square()) / 2)
    points = s * torch.stack([u1 * v1 + 0 * u2, u1 * v2 + 0 * u2, u2 * v1, u2 * v2], -1).flatten(0, 1)
    weights = weights.flatten()
    if not positive:
        signs = torch.where(x.flatten() == 0, -1, 1)
        points, weights = torch.cat([points, signs * points]), weights.repeat(2)
    return points, weights / weights.sum()


def moments(points, weights, y, scale, sigma):
    """Log-density ln p(y | x), E[y₀ | y, x] and Cov[y₀ | y, x] of weighted completions."""
    logits = weights.log() - (y - scale * points).square().sum(1) / (2 * sigma**2)
    shares = logits.softmax(0)
    mean = shares @ points
    return logits.logsumexp(0), mean, (shares[:, None] * (points - mean)).mT @ (points - mean)


# Halving the cells of the quadrature moves none of its moments by more than half of this, relatively.
GRID_ERROR = 1e-4


@pytest.mark.parametrize("row", [True, False], ids=["row", "diagonal"])
@pytest.mark.parametrize("factors", ["positive", "normal"])
def test_moments_miss_those_of_dense_quadrature_by_the_stated_error_and_on_average_not(
    factors, row, generator
):
    spec = ProblemSpec("completion", 2, rank=1, factors=factors)
    seeds = torch.randperm(10**6, generator=generator)[:10].tolist()
    oracles = [BayesOracle(spec, seed=seed) for seed in seeds]
    mask = torch.tensor([[1, 1], [0, 0]] if row else [[1, 0], [0, 1]])
    x = mask * (0.3 + 0.4 * torch.rand(2, 2, generator=generator, dtype=torch.float64))
    x = x if factors == "positive" else x / 4
    points, weights = quadrature(spec, x, row)
    # Two points at each level.
    t = torch.tensor([0, 3, 9]).repeat_interleave(2)
    scale, sigma = oracles[0].schedule.sqrt_alphas_cumprod[t, None], oracles[0].schedule.sigma[t, None]
    noise = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    y = scale * points[torch.multinomial(weights, 6, generator=generator)] + sigma * noise
    rows = zip(y, scale, sigma, strict=True)
    log_density, mean, covariance = map(
        torch.stack, zip(*(moments(points, weights, *row) for row in rows), strict=True)
    )
    x = x.reshape(1, 4).expand(6, 4)

    def per_level(squares):
        return squares.unflatten(1, (3, 2)).mean((0, 2)).sqrt()

    hessians = sigma[..., None] * torch.stack([oracle.hessian(x, y, t) for oracle in oracles])
    curvature = (scale / sigma).square()[..., None] * covariance
    found = per_level((torch.eye(4) - hessians - curvature).square().sum((2, 3)))
    errors = torch.stack([oracle.standard_error(x, y, t) for oracle in oracles])
    stated = per_level(errors.square() * hessians.square().sum((2, 3)))
    grid = GRID_ERROR * per_level(curvature.square().sum((1, 2))[None])
    assert (found < 3 * stated + grid).all()
    assert (stated < 5 * found).all()

    gradients = torch.stack([oracle.gradient(x, y, t) for oracle in oracles])
    energies = torch.stack([oracle.energy(x, y, t) for oracle in oracles]) / sigma.squeeze(1)
    for values, truth in (
        ((y - sigma * gradients) / scale, mean),
        (energies[:, ::2] - energies[:, 1::2], log_density[1::2] - log_density[::2]),
    ):
        off = (values.mean(0) - truth).abs()
        assert (off < 10 * values.std(0) / math.sqrt(len(oracles)) + GRID_ERROR * (1 + truth.abs())).all()


@pytest.mark.parametrize("spec", [SPARSE_POSITIVE, SPARSE_NORMAL], ids=str)
def test_derivatives_of_a_mixture_of_completions_are_those_of_its_energy(spec, generator):
    oracle, problems, t, _, y = noised(spec, 30, generator)
    point = y.clone().requires_grad_()
    assert not oracle.exact(problems.x).all()
    (gradient,) = torch.autograd.grad(oracle.function(problems.x, point, t).sum(), point)
    assert torch.allclose(oracle.gradient(problems.x, y, t), gradient, rtol=0, atol=1e-9)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    step = 1e-5
    ends = [oracle.gradient(problems.x, y + sign * step * v, t) for sign in (1, -1)]
    assert relative(oracle.hvp(problems.x, y, t, v), (ends[0] - ends[1]) / (2 * step)) < 1e-6


@pytest.mark.parametrize(
    ("spec", "count", "t"),
    [
        (SPARSE_POSITIVE, 100, 0),
        (SPARSE_POSITIVE, 100, 4),
        (SPARSE_NORMAL, 80, 0),
        (OFFICIAL, 30, 1),
    ],
    ids=str,
)
def test_the_gradient_is_the_best_estimate_of_the_noise(spec, count, t, generator):
    oracle, problems, levels, noise, y = noised(spec, count, generator, t)
    undetermined = ~oracle.exact(problems.x)
    x, y, noise, levels = (part[undetermined] for part in (problems.x, y, noise, levels))
    gradient = oracle.gradient(x, y, levels)
    error = gradient - noise
    # Orthogonal to any function of (x, y), and of the size that Tweedie's second formula says.
    promised = spec.dim_y - oracle.schedule.sigma[t] * oracle.hessian(x, y, levels).diagonal(
        dim1=1, dim2=2
    ).sum(1)
    for statistic in ((error * gradient).sum(1), (error * y).sum(1), error.square().sum(1) - promised):
        assert abs(statistic.mean()) < 6 * statistic.std() / math.sqrt(len(statistic))
    for factor in (0.5, 2):
        assert (factor * gradient - noise).square().sum() > error.square().sum()


def prior_sample(spec, count, generator):
    """Signals sUVᵀ of the official law, (count, n²), written from its definition."""
    U, V = torch.randn(2, count, spec.n, 10, generator=generator, dtype=torch.float64)
    return ((U @ V.mT) / (5 if spec.ood else 20)).flatten(1)


def importance_moments(signals, x, y, scale, sigma):
    """Mean and covariance of y₀ given x and y, from prior signals weighted with their likelihood."""
    missing = x == 0
    blur = (sigma / scale) ** 2
    variance = torch.where(missing, OFFICIAL_NOISE**2 + blur, OFFICIAL_NOISE**2)
    seen = torch.where(missing, y / scale, x)
    shares = (-(signals - seen).square() / (2 * variance)).sum(1).softmax(0)
    trust = OFFICIAL_NOISE**2 / (OFFICIAL_NOISE**2 + blur)
    answers = torch.where(missing, (1 - trust) * signals + trust * y / scale, x)
    mean = shares @ answers
    covariance = (answers - mean).mT @ (shares[:, None] * (answers - mean))
    covariance += torch.diag(torch.where(missing, OFFICIAL_NOISE**2 * (1 - trust), 0))
    return mean, covariance, 1 / shares.square().sum()


@pytest.mark.parametrize(
    "spec", [ProblemSpec("completion", 2), ProblemSpec("completion", 2, ood=True), OFFICIAL], ids=str
)
def test_official_moments_are_those_of_weighted_draws_from_the_prior(spec, generator):
    oracle, problems, t, _, y = noised(spec, 4, generator)
    t[:3] = torch.tensor([0, 1, 2])
    y[:3] = q_sample(
        problems.y_star[:3],
        t[:3],
        torch.randn(3, spec.dim_y, generator=generator, dtype=torch.float64),
        oracle.schedule,
    )
    signals = prior_sample(spec, 50_000, generator)
    gradients, hessians = oracle.gradient(problems.x, y, t), oracle.hessian(problems.x, y, t)
    errors = oracle.standard_error(problems.x, y, t)
    for index in range(4):
        scale, sigma = oracle.schedule.sqrt_alphas_cumprod[t[index]], oracle.schedule.sigma[t[index]]
        mean, covariance, draws = importance_moments(signals, problems.x[index], y[index], scale, sigma)
        gain = (scale / sigma) ** 2
        hessian = (torch.eye(spec.dim_y) - gain * covariance) / sigma
        own = gain * covariance.norm() * math.sqrt(2 * spec.dim_y / draws) / (sigma * hessian.norm())
        assert relative(hessians[index], hessian) < 6 * (errors[index] + own) + 1e-9
        tolerance = (
            6 * scale / sigma * covariance.trace().sqrt() * (math.sqrt(1 / draws) + math.sqrt(1 / 200))
        )
        assert (gradients[index] - (y[index] - scale * mean) / sigma).norm() < tolerance + 1e-9


def test_the_stated_error_of_the_official_oracle_is_the_spread_between_seeds(generator):
    spec = ProblemSpec("completion", 3)
    _, problems, t, _, y = noised(spec, 6, generator, t=0)
    oracles = [BayesOracle(spec, seed=int(torch.randint(10**6, (), generator=generator))) for _ in range(6)]
    hessians = torch.stack([oracle.hessian(problems.x, y, t) for oracle in oracles])
    spread = (hessians - hessians.mean(0)).square().sum((2, 3)).sum(0) / 5
    spread = spread / hessians.mean(0).square().sum((1, 2))
    stated = torch.stack([oracle.standard_error(problems.x, y, t) for oracle in oracles]).square().mean(0)
    assert 0.2 < (spread / stated).mean() < 2.5


def test_observed_entries_of_the_official_law_are_known_and_missing_ones_nearly_the_prior(generator):
    oracle, problems, t, noise, y = noised(ProblemSpec("completion", 6), 8, generator)
    observed = problems.x != 0
    assert (oracle.gradient(problems.x, y, t) - noise)[observed].abs().max() < 1e-12
    sigma = oracle.schedule.sigma[t][:, None, None]
    scaled = sigma * oracle.hessian(problems.x, y, t)
    pairs = observed[:, :, None] | observed[:, None]
    assert (scaled - torch.eye(36))[pairs].abs().max() < 1e-12
    assert torch.linalg.eigvalsh(scaled).amin() > 0.2
    assert torch.linalg.eigvalsh(scaled).amax() < 1 + 1e-12


def test_differences_of_the_official_energy_are_integrals_of_its_gradient(generator):
    oracle, problems, t, _, y = noised(ProblemSpec("completion", 3), 4, generator)
    step = oracle.schedule.sigma[t][:, None] * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    nodes = torch.tensor([0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6])
    gradients = [oracle.gradient(problems.x, y + node * step, t) for node in nodes]
    work = (sum(gradients) / 2 * step).sum(1)
    difference = oracle.energy(problems.x, y + step, t) - oracle.energy(problems.x, y, t)
    assert ((difference - work).abs() < 0.05 * step.norm(dim=1) * gradients[0].norm(dim=1)).all()


@pytest.mark.parametrize("spec", [SPARSE_POSITIVE, OFFICIAL], ids=str)
def test_a_result_does_not_depend_on_the_other_points_of_the_call(spec, generator):
    oracle, problems, t, _, y = noised(spec, 6, generator)
    part = slice(2, 4)
    for method in (oracle.energy, oracle.gradient, oracle.hessian, oracle.standard_error):
        whole, alone = method(problems.x, y, t)[part], method(problems.x[part], y[part], t[part])
        assert torch.allclose(whole, alone, rtol=1e-9, atol=1e-9)


def test_entries_of_no_rank_one_matrix_are_refused(generator):
    x = 0.5 + torch.rand(3, 16, generator=generator, dtype=torch.float64)
    x[1] = 0.3
    with pytest.raises(TaskError, match=r"2 of 3 x do not hold .* rank-1 matrix with positive"):
        BayesOracle(SPARSE_POSITIVE).gradient(x, x, 0)


def test_rescaled_problems_keep_the_factors_in_their_range(generator):
    spec = ProblemSpec("completion", 4, rank=1, factors="positive")
    problems = draw_problems(spec, 2000, generator)
    oracle = BayesOracle(spec)
    chosen = ((problems.x.amax(1) - 1.98).abs() < 1e-9) & ~oracle.exact(problems.x)
    x, y_star = problems.x[chosen], problems.y_star[chosen]
    assert len(x) > 5
    noise = torch.randn(y_star.shape, generator=generator, dtype=torch.float64)
    y = q_sample(y_star, 3, noise, oracle.schedule)
    error = oracle.gradient(x, y, 3) - noise
    promised = spec.dim_y - oracle.schedule.sigma[3] * oracle.hessian(x, y, 3).diagonal(dim1=1, dim2=2).sum(1)
    excess = error.square().sum(1) - promised
    assert abs(excess.mean()) < 6 * excess.std() / math.sqrt(len(x)) + 1e-3
