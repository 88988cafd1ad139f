"""Analytic energies against autograd, differences, SciPy's densities and the textbook facts they carry."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from iredinterp.energy import CallableEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.linalg import condition_number
from iredinterp.spectrum import spectra
from iredinterp.truth.analytic import (
    DoubleWell,
    GaussianPosterior,
    InverseResidualEnergy,
    MaskedEnergy,
    MixturePosterior,
    MuellerBrown,
    QuadraticEnergy,
    haar_orthogonal,
)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def identity(d):
    return torch.eye(d, dtype=torch.float64)


def uniform(generator, low, high, *shape):
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def covariance(generator, d):
    F = normal(generator, d, d)
    return F @ F.mT / d + 0.05 * identity(d)


def gaussian(generator, d=4, dim_x=3):
    return GaussianPosterior(
        slope=normal(generator, d, dim_x), covariance=covariance(generator, d), centre=normal(generator, d)
    )


def mixture(generator, count=3, d=4, dim_x=3):
    weights = uniform(generator, 0.2, 1, count)
    return MixturePosterior(
        weights=weights / weights.sum(), components=[gaussian(generator, d, dim_x) for _ in range(count)]
    )


def quadratic(generator, *shape, **options):
    return QuadraticEnergy(
        spectrum=normal(generator, *shape),
        eigenbasis=haar_orthogonal(shape[-1], generator),
        centre=normal(generator, shape[-1]),
        **options,
    )


ENERGIES = {
    "quadratic": lambda g: quadratic(g, 6, dim_x=2),
    "quadratic-levels": lambda g: quadratic(g, 10, 6),
    "inverse": lambda g: InverseResidualEnergy(n=3),
    "inverse-two-sided": lambda g: InverseResidualEnergy(n=3, two_sided=True),
    "masked": lambda g: MaskedEnergy(n=4),
    "masked-rank": lambda g: MaskedEnergy(n=4, rank=2, penalty=0.7),
    "double-well": lambda g: DoubleWell(curvatures=uniform(g, 0.5, 3, 4)),
    "double-well-1d": lambda g: DoubleWell(curvatures=torch.ones(0)),
    "mueller-brown": lambda g: MuellerBrown(),
    "gaussian": gaussian,
    "mixture": mixture,
}


def points(energy, generator, size=4):
    x, y = normal(generator, size, energy.dim_x), normal(generator, size, energy.dim_y)
    t = torch.randint(energy.schedule.levels, (size,), generator=generator)
    if isinstance(energy, MaskedEnergy):
        x[:, energy.dim_y :] = torch.randint(2, y.shape, generator=generator).double()
        if energy.rank is not None:
            y = gapped(generator, size, energy.n)
    return x, y, t


def gapped(generator, size, n):
    """Matrices whose singular values lie at least 0.5 apart, row-major."""
    values = torch.arange(n, 0, -1) + uniform(generator, -0.25, 0.25, size, n)
    U, V = (torch.linalg.qr(normal(generator, size, n, n)).Q for _ in range(2))
    return ((U * values.unsqueeze(-2)) @ V.mT).flatten(1)


def assert_close(found, expected, relative):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= relative * (1 + expected.abs().max())


@pytest.mark.parametrize("name", ENERGIES)
def test_formulas_are_the_derivatives_of_the_function(name, generator):
    energy = ENERGIES[name](generator)
    x, y, t = points(energy, generator)
    autograd = CallableEnergy(energy.function, energy.dim_x, energy.dim_y)
    value, gradient = energy.energy_and_gradient(x, y, t)
    hessian = energy.hessian(x, y, t)
    assert_close(value, autograd.energy(x, y, t), 1e-14)
    assert_close(gradient, autograd.gradient(x, y, t), 1e-10)
    assert_close(hessian, autograd.hessian(x, y, t), 1e-10)
    assert_close(hessian, hessian.mT, 1e-14)


@pytest.mark.parametrize("name", ENERGIES)
def test_formulas_are_the_limits_of_central_differences(name, generator):
    energy = ENERGIES[name](generator)
    x, y, t = points(energy, generator)
    v = torch.nn.functional.normalize(normal(generator, *y.shape))
    step = 1e-5
    ahead, behind = y + step * v, y - step * v
    slope = (energy.energy(x, ahead, t) - energy.energy(x, behind, t)) / (2 * step)
    bend = (energy.gradient(x, ahead, t) - energy.gradient(x, behind, t)) / (2 * step)
    assert_close((energy.gradient(x, y, t) * v).sum(-1), slope, 1e-5)
    assert_close(energy.hvp(x, y, t, v), bend, 1e-5)


@pytest.mark.parametrize(
    "name", ["quadratic", "quadratic-levels", "inverse", "inverse-two-sided", "gaussian"]
)
def test_stated_minimum_and_eigenvalues_are_those_of_the_derivatives(name, generator):
    energy = ENERGIES[name](generator)
    x, y, t = points(energy, generator)
    assert_close(energy.gradient(x, energy.minimum(x, t), t), torch.zeros_like(y), 1e-9)
    autograd = spectra(
        CallableEnergy(energy.function, energy.dim_x, energy.dim_y), x, y, t, engine="autograd"
    )
    assert_close(energy.eigenvalues(x, t), autograd.eigenvalues, 1e-10)
    assert_close(spectra(energy, x, y, t).eigenvalues, autograd.eigenvalues, 1e-10)


@pytest.mark.parametrize("name", sorted(set(ENERGIES) - {"mixture"}))
def test_single_precision_agrees_with_double(name, generator):
    energy = ENERGIES[name](generator)
    single = replace(energy, dtype=torch.float32)
    x, y, t = points(energy, generator)
    found = single.hessian(x.float(), y.float(), t)
    assert found.dtype == torch.float32
    assert_close(found.double(), energy.hessian(x, y, t), 1e-3)


def test_haar_matrices_are_orthogonal_and_have_haar_moments(generator):
    d, count = 4, 2000
    drawn = torch.stack([haar_orthogonal(d, generator) for _ in range(count)])
    assert_close(drawn @ drawn.mT, identity(d).expand_as(drawn), 1e-13)
    # E tr Q = 0, which the bare Q of LAPACK's QR misses by far; E Q_11⁴ = 3/(d(d + 2)) = 1/8.
    traces = drawn.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(traces.mean()) < 6 / math.sqrt(count)
    assert drawn[:, 0, 0].pow(4).mean() == pytest.approx(1 / 8, abs=6 * 0.2 / math.sqrt(count))


def test_quadratic_has_the_spectrum_it_was_given(generator):
    spectrum = normal(generator, 10, 7)
    energy = QuadraticEnergy(spectrum=spectrum, eigenbasis=haar_orthogonal(7, generator))
    x, y, t = points(energy, generator, 10)
    assert_close(spectra(energy, x, y, t).eigenvalues, spectrum[t].sort(dim=1).values, 1e-12)


def test_rotating_y_leaves_the_spectrum_of_a_quadratic(generator):
    energy, R = quadratic(generator, 6), haar_orthogonal(6, generator)
    rotated = QuadraticEnergy(
        spectrum=energy.spectrum, eigenbasis=R @ energy.eigenbasis, centre=R @ energy.centre
    )
    x, y, t = points(energy, generator)
    assert_close(rotated.energy(x, y @ R.mT, t), energy.energy(x, y, t), 1e-13)
    assert_close(rotated.gradient(x, y @ R.mT, t), energy.gradient(x, y, t) @ R.mT, 1e-13)
    assert_close(spectra(rotated, x, y @ R.mT, t).eigenvalues, spectra(energy, x, y, t).eigenvalues, 1e-13)


@pytest.mark.parametrize("name", ENERGIES)
def test_an_offset_in_x_and_t_changes_no_derivative_and_no_difference(name, generator):
    energy = ENERGIES[name](generator)
    shifted = CallableEnergy(
        lambda x, y, t: energy.function(x, y, t) + 10 * x.sum(-1).sin() + t, energy.dim_x, energy.dim_y
    )
    x, y, t = points(energy, generator)
    other = points(energy, generator)[1]
    difference = energy.energy(x, y, t) - energy.energy(x, other, t)
    assert_close(shifted.energy(x, y, t) - shifted.energy(x, other, t), difference, 1e-12)
    assert_close(shifted.gradient(x, y, t), energy.gradient(x, y, t), 1e-10)
    assert_close(spectra(shifted, x, y, t).eigenvalues, spectra(energy, x, y, t).eigenvalues, 1e-10)


@pytest.mark.parametrize("two_sided", [False, True])
def test_inverse_energy_is_the_residual_of_matrix_products(two_sided, generator):
    energy = InverseResidualEnergy(n=3, two_sided=two_sided)
    x, y, t = points(energy, generator)
    for value, one_x, one_y in zip(energy.energy(x, y, t), x, y, strict=True):
        X, Y = one_x.reshape(3, 3).numpy(), one_y.reshape(3, 3).numpy()
        expected = np.linalg.norm(X @ Y - np.eye(3)) ** 2 + two_sided * np.linalg.norm(Y @ X - np.eye(3)) ** 2
        assert value.item() == pytest.approx(expected / 2, rel=1e-12)


def matrix_of(values, generator):
    return (haar_orthogonal(4, generator) * values) @ haar_orthogonal(4, generator)


def test_condition_of_one_sided_inverse_energy_is_the_square_of_that_of_x(generator):
    values = torch.tensor([30.0, 7.0, 3.0, 1.0], dtype=torch.float64)
    x, y = matrix_of(values, generator).reshape(1, 16), normal(generator, 1, 16)
    found = spectra(InverseResidualEnergy(n=4), x, y, 0).eigenvalues
    assert_close(found[0], values.flip(0).square().repeat_interleave(4), 1e-12)
    assert condition_number(found).item() == pytest.approx(900, rel=1e-9)


def test_spectrum_of_two_sided_inverse_energy_is_sum_of_squared_singular_values(generator):
    values = uniform(generator, 0.3, 5, 4)
    X, y = matrix_of(values, generator), normal(generator, 1, 16)
    energy, x = InverseResidualEnergy(n=4, two_sided=True), X.reshape(1, 16)
    sums = (values.square() + values.square().unsqueeze(1)).flatten().sort().values
    assert_close(spectra(energy, x, y, 0).eigenvalues[0], sums, 1e-12)
    expected = torch.kron(X.mT @ X, identity(4)) + torch.kron(identity(4), X @ X.mT)
    assert_close(energy.hessian(x, y, 0)[0], expected, 1e-13)


def test_masked_energy_is_flat_where_nothing_is_observed_and_has_curvature_one_elsewhere(generator):
    energy = MaskedEnergy(n=3)
    truth, y = normal(generator, 1, 9), normal(generator, 1, 9)
    # An observed zero is an observation.
    truth[0, 0] = 0
    mask = torch.tensor([[1.0, 1, 0, 0, 1, 0, 0, 1, 0]], dtype=torch.float64)
    x = torch.cat([truth, mask], dim=1)
    found = spectra(energy, x, y, 0).eigenvalues[0]
    assert torch.equal(found, torch.tensor([0.0] * 5 + [1.0] * 4, dtype=torch.float64))
    misfit = (y - truth)[mask.bool()]
    assert energy.energy(x, y, 0).item() == pytest.approx(misfit.square().sum().item() / 2, rel=1e-13)
    scrambled = torch.cat([torch.where(mask.bool(), truth, 99.0), mask], dim=1)
    assert torch.equal(energy.gradient(scrambled, y, 0), energy.gradient(x, y, 0))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rank_penalty_is_the_squared_distance_to_the_nearest_matrix_of_that_rank(rank, generator):
    energy = MaskedEnergy(n=4, rank=rank, penalty=1.7)
    y, x = gapped(generator, 1, 4), torch.zeros(1, 32, dtype=torch.float64)
    U, s, Vh = np.linalg.svd(y.reshape(4, 4).numpy())
    nearest = (U[:, :rank] * s[:rank]) @ Vh[:rank]
    distance = np.linalg.norm(y.reshape(4, 4).numpy() - nearest)
    assert energy.energy(x, y, 0).item() == pytest.approx(1.7 / 2 * distance**2, rel=1e-12)
    low_rank = torch.from_numpy(nearest).reshape(1, 16)
    assert energy.gradient(x, low_rank, 0).abs().max() < 1e-13


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rank_penalty_curves_downwards_by_the_ratios_of_singular_values_to_their_gaps(rank, generator):
    energy = MaskedEnergy(n=4, rank=rank)
    y, x = gapped(generator, 1, 4), torch.zeros(1, 32, dtype=torch.float64)
    s = torch.linalg.svdvals(y.reshape(4, 4)).tolist()
    expected = [0.0] * rank**2 + [1.0] * (4 - rank) ** 2
    for kept in s[:rank]:
        for dropped in s[rank:]:
            expected += [-dropped / (kept - dropped), dropped / (kept + dropped)]
    expected = torch.tensor(sorted(expected), dtype=torch.float64)
    assert_close(spectra(energy, x, y, 0).eigenvalues[0], expected, 1e-11)


def test_hessian_at_a_matrix_of_rank_r_is_the_projection_off_the_tangent_space(generator):
    n, rank = 5, 2
    U, V = haar_orthogonal(n, generator)[:, :rank], haar_orthogonal(n, generator)[:, :rank]
    y = ((U * torch.tensor([3.0, 1.0])) @ V.mT).reshape(1, -1)
    eye = identity(n)
    expected = torch.kron(eye - U @ U.mT, eye - V @ V.mT)
    hessian = MaskedEnergy(n=n, rank=rank).hessian(torch.zeros(1, 2 * n * n, dtype=y.dtype), y, 0)[0]
    assert_close(hessian, expected, 1e-13)


def test_rank_penalty_without_a_gap_has_no_finite_hessian():
    y = identity(3).reshape(1, 9)
    hessian = MaskedEnergy(n=3, rank=1).hessian(torch.zeros(1, 18, dtype=torch.float64), y, 0)
    assert not hessian.isfinite().all()


def test_double_well_has_two_minima_and_a_saddle_of_index_one_with_curvature_minus_four(generator):
    curvatures = uniform(generator, 0.2, 5, 3)
    energy = DoubleWell(curvatures=curvatures)
    y = torch.cat([energy.minima, energy.saddles])
    x = torch.zeros(3, 1, dtype=torch.float64)
    assert torch.equal(energy.gradient(x, y, 5), torch.zeros_like(y))
    assert energy.energy(x, y, 5).tolist() == [0, 0, energy.barrier]
    expected = [torch.cat([torch.tensor([first]), curvatures]) for first in (8.0, 8.0, -4.0)]
    assert_close(energy.hessian(x, y, 5), torch.diag_embed(torch.stack(expected)), 1e-15)


@pytest.mark.parametrize(
    ("kind", "published", "index"),
    [
        ("minimum", [-146.69951721, -80.76781813, -108.16672412], 0),
        ("saddle", [-40.66484351, -72.24894011], 1),
    ],
)
def test_mueller_brown_points_are_stationary_with_published_energies(kind, published, index):
    energy = MuellerBrown()
    y = {"minimum": energy.minima, "saddle": energy.saddles}[kind]
    x = torch.zeros(len(y), 1, dtype=torch.float64)
    hessian = energy.hessian(x, y, 0)
    assert torch.linalg.solve(hessian, energy.gradient(x, y, 0)).abs().max() < 1e-9
    assert energy.energy(x, y, 0).tolist() == pytest.approx(published, abs=1e-8)
    assert getattr(energy, f"{kind}_energies").tolist() == published
    assert (torch.linalg.eigvalsh(hessian) < 0).sum(1).tolist() == [index] * len(y)


def test_mueller_brown_is_the_published_sum_of_exponentials(generator):
    amplitudes, a, b, c = (-200, -100, -170, 15), (-1, -1, -6.5, 0.7), (0, 0, 11, 0.6), (-10, -10, -6.5, 0.7)
    y = uniform(generator, -1.5, 1.5, 20, 2)
    u, v = y.numpy().T
    expected = sum(
        A * np.exp(i * (u - p) ** 2 + j * (u - p) * (v - q) + k * (v - q) ** 2)
        for A, i, j, k, p, q in zip(amplitudes, a, b, c, (1, 0, -0.5, -1), (0, 0.5, 1.5, 1), strict=True)
    )
    found = MuellerBrown().energy(torch.zeros(20, 1, dtype=torch.float64), y, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_downhill_from_each_mueller_brown_saddle_lie_the_minima_on_its_two_sides():
    energy = MuellerBrown()
    x = torch.zeros(2, 1, dtype=torch.float64)
    pushes = torch.linalg.eigh(energy.hessian(x, energy.saddles, 0)).eigenvectors[..., 0]
    y = torch.cat([energy.saddles + 0.02 * pushes, energy.saddles - 0.02 * pushes])
    for _ in range(600):
        y = y - 2.5e-4 * energy.gradient(torch.cat([x, x]), y, 0)
    reached = torch.cdist(y, energy.minima).argmin(1)
    assert reached.reshape(2, 2).sort(dim=0).values.tolist() == [[0, 1], [1, 2]]


def log_density(y, t, x, component, schedule):
    """Log N(y; √ᾱ_t μ(x), ᾱ_tΣ + σ_t²I) by SciPy."""
    mean = component.slope @ x + component.centre
    spread = schedule.abar[t] * component.covariance + schedule.sigma[t] ** 2 * identity(len(y))
    return scipy.stats.multivariate_normal(schedule.abar[t].sqrt() * mean, spread).logpdf(y)


def conditional(y, t, x, component, schedule):
    """Mean and covariance of y0 given y under one component, from its precision form."""
    prior = torch.linalg.inv(component.covariance)
    noise = schedule.sigma[t] ** 2
    spread = torch.linalg.inv(prior + schedule.abar[t] / noise * identity(len(y)))
    mean = component.slope @ x + component.centre
    return spread @ (prior @ mean + schedule.abar[t].sqrt() / noise * y), spread


def test_gaussian_energy_is_minus_sigma_times_the_log_density(generator):
    energy, schedule = gaussian(generator), cosine_schedule()
    x, y, t = points(energy, generator, 10)
    expected = [
        -schedule.sigma[i].item() * log_density(b, i, a, energy, schedule)
        for a, b, i in zip(x, y, t, strict=True)
    ]
    np.testing.assert_allclose(energy.energy(x, y, t), expected, rtol=1e-9, atol=1e-10)


def test_gaussian_hessian_and_condition_number_are_those_of_the_noised_covariance(generator):
    energy, schedule = gaussian(generator, d=5), cosine_schedule()
    t = torch.arange(10)
    x, y = normal(generator, 10, 3), normal(generator, 10, 5)
    eye = identity(5)
    abar, sigma = schedule.abar[:, None, None], schedule.sigma[:, None, None]
    expected = sigma * torch.linalg.inv(abar * energy.covariance + sigma.square() * eye)
    assert_close(energy.hessian(x, y, t), expected, 1e-10)
    variances = torch.linalg.eigvalsh(energy.covariance)
    noised = schedule.abar[:, None] * variances[[0, -1]] + schedule.sigma.square()[:, None]
    assert_close(condition_number(energy.eigenvalues(x, t)), noised[:, 1] / noised[:, 0], 1e-10)


def test_deterministic_task_has_hessian_identity_over_sigma_and_its_answer_as_minimum(generator):
    slope = normal(generator, 4, 4)
    energy = GaussianPosterior(slope=slope, covariance=torch.zeros(4, 4))
    schedule = cosine_schedule()
    t = torch.arange(10)
    x, y = normal(generator, 10, 4), normal(generator, 10, 4)
    assert_close(energy.hessian(x, y, t), identity(4) / schedule.sigma[:, None, None], 1e-12)
    answer = schedule.abar.sqrt().unsqueeze(1) * (x @ slope.mT)
    # One jump y − σ_t∇E lands on the answer from anywhere.
    assert_close(y - schedule.sigma.unsqueeze(1) * energy.gradient(x, y, t), answer, 1e-12)
    gain = (y - answer).square().sum(1) / (2 * schedule.sigma)
    assert_close(energy.energy(x, y, t) - energy.energy(x, answer, t), gain, 1e-11)


def test_mixture_derivatives_obey_tweedie_to_second_order(generator):
    energy, schedule = mixture(generator), cosine_schedule()
    x, y, t = points(energy, generator, 10)
    for one_x, one_y, level in zip(x, y, t, strict=True):
        logs = np.log(energy.weights.numpy()) + [
            log_density(one_y, level, one_x, component, schedule) for component in energy.components
        ]
        weights = torch.from_numpy(np.exp(logs - logs.max()))
        weights = weights / weights.sum()
        means, spreads = zip(
            *(conditional(one_y, level, one_x, component, schedule) for component in energy.components),
            strict=True,
        )
        means, spreads = torch.stack(means), torch.stack(spreads)
        mean = weights @ means
        squares = spreads + means.unsqueeze(2) * means.unsqueeze(1)
        spread = torch.einsum("k,kij->ij", weights, squares) - torch.outer(mean, mean)
        sigma, abar = schedule.sigma[level], schedule.abar[level]
        point = one_x[None], one_y[None], level
        assert_close(energy.gradient(*point)[0], (one_y - abar.sqrt() * mean) / sigma, 1e-8)
        expected = (identity(4) - abar / sigma**2 * spread) / sigma
        assert_close(energy.hessian(*point)[0], expected, 1e-8)
        assert_close(energy.responsibilities(point[0], point[1], level[None])[0], weights, 1e-9)
        assert energy.energy(*point).item() == pytest.approx(-sigma.item() * scipy.special.logsumexp(logs))


def two_answers(answer, variance):
    d = len(answer)
    spread = variance * identity(d)
    return MixturePosterior(
        weights=torch.full((2,), 0.5),
        components=[
            GaussianPosterior(slope=torch.zeros(d, 1), covariance=spread, centre=sign * answer)
            for sign in (1, -1)
        ],
    )


def test_two_equal_answers_merge_into_one_minimum_once_the_noise_covers_their_distance(generator):
    answer = uniform(generator, 0.3, 0.8, 3)
    energy, schedule = two_answers(answer, 0.02), cosine_schedule()
    x, y = torch.zeros(10, 1, dtype=torch.float64), torch.zeros(10, 3, dtype=torch.float64)
    variance = schedule.abar * 0.02 + schedule.sigma.square()
    separation = schedule.abar * answer.square().sum() / variance
    across = schedule.sigma / variance * (1 - separation)
    found = energy.hessian(x, y, torch.arange(10))
    curvature = torch.einsum("i,bij,j->b", answer, found, answer) / answer.square().sum()
    assert_close(curvature, across, 1e-12)
    assert separation[0] > 1 > separation[-1]


def test_mixture_stays_finite_far_from_every_answer(generator):
    energy = two_answers(1e3 * torch.ones(2, dtype=torch.float64), 0.0)
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[1e5, -3e5]], dtype=torch.float64)
    for value in (energy.energy(x, y, 0), energy.gradient(x, y, 0), energy.hessian(x, y, 0)):
        assert value.isfinite().all()


EYE, TWO, SKEW = torch.eye(2), torch.ones(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
ONE = GaussianPosterior(slope=EYE, covariance=EYE)
SHORT = GaussianPosterior(slope=EYE, covariance=EYE, schedule=cosine_schedule(4))
NARROW = GaussianPosterior(slope=EYE[:, :1], covariance=EYE)
REFUSED = [
    (QuadraticEnergy, {"spectrum": torch.ones(3)}, r"eigenbasis must have shape \(3, 3\), found \(2, 2\)"),
    (QuadraticEnergy, {"spectrum": torch.ones(7, 2)}, r"spectrum must have shape \(10, d\), found \(7, 2\)"),
    (QuadraticEnergy, {"spectrum": EYE[None]}, r"spectrum must have shape \(d\), found \(1, 2, 2\)"),
    (QuadraticEnergy, {"spectrum": math.nan * TWO}, "spectrum must be finite"),
    (QuadraticEnergy, {"spectrum": TWO, "eigenbasis": 2 * EYE}, "eigenbasis must be orthogonal"),
    (QuadraticEnergy, {"spectrum": TWO, "centre": EYE}, r"centre must have shape \(2\), found \(2, 2\)"),
    (InverseResidualEnergy, {"n": 0}, "n must be at least 1, found 0"),
    (MaskedEnergy, {"n": 0}, "n must be at least 1, found 0"),
    (MaskedEnergy, {"n": 3, "rank": 0}, "rank must lie in 1 … 2, found 0"),
    (MaskedEnergy, {"n": 3, "rank": 3}, "rank must lie in 1 … 2, found 3"),
    (MaskedEnergy, {"n": 3, "rank": 1, "penalty": -1.0}, "penalty must be positive, found -1.0"),
    (DoubleWell, {"curvatures": torch.tensor([1.0, -2.0])}, "curvatures must be positive, found -2.0"),
    (DoubleWell, {"curvatures": EYE}, r"curvatures must have shape \(d − 1\), found \(2, 2\)"),
    (GaussianPosterior, {"slope": TWO}, r"slope must have shape \(d, d_x\), found \(2,\)"),
    (GaussianPosterior, {"covariance": TWO}, r"covariance must have shape \(2, 2\), found \(2,\)"),
    (GaussianPosterior, {"covariance": -EYE}, "covariance must have eigenvalues ≥ 0, found -1"),
    (GaussianPosterior, {"covariance": SKEW}, "covariance must equal Σᵀ"),
    (MixturePosterior, {"weights": 0.6 * TWO}, "weights must be positive with sum 1"),
    (MixturePosterior, {"weights": torch.tensor([1.5, -0.5])}, "weights must be positive with sum 1"),
    (MixturePosterior, {"weights": torch.ones(1)}, r"weights must have shape \(2\), found \(1,\)"),
    (MixturePosterior, {"weights": torch.zeros(0), "components": []}, "weights must be positive with sum 1"),
    (MixturePosterior, {"components": [ONE, NARROW]}, "components must share d_x"),
    (MixturePosterior, {"components": [SHORT, SHORT]}, "components must share d_x"),
]
SOUND = {
    QuadraticEnergy: {"spectrum": TWO, "eigenbasis": EYE},
    GaussianPosterior: {"slope": EYE, "covariance": EYE},
    MixturePosterior: {"weights": TWO / 2, "components": [ONE, ONE]},
}


@pytest.mark.parametrize(("kind", "wrong", "message"), REFUSED)
def test_an_impossible_energy_is_refused_with_its_reason(kind, wrong, message):
    with pytest.raises(ConfigError, match=message):
        kind(**SOUND.get(kind, {}) | wrong)


@pytest.mark.parametrize(
    "name", ["inverse", "inverse-two-sided", "masked", "masked-rank", "gaussian", "mixture"]
)
def test_an_x_of_the_wrong_width_is_refused_with_the_right_one(name, generator):
    energy = ENERGIES[name](generator)
    x, y, t = points(energy, generator)
    message = rf"x must have shape \(B, {energy.dim_x}\), found \(4, {energy.dim_x + 1}\)"
    wide = torch.cat([x, x[:, :1]], dim=1)
    for call in (energy.energy, energy.gradient):
        with pytest.raises(ConfigError, match=message):
            call(wide, y, t)
