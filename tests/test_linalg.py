"""Angles, shapes of a spectrum, geometric bases and Lanczos against closed forms, planted cases and mpmath."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

from iredinterp.linalg import (
    condition_number,
    effective_rank,
    inertia,
    intrinsic_dimension,
    lanczos,
    participation_ratio,
    principal_angles,
    quantile_ratio,
    spectral_gap,
    stable_rank,
    subspace_overlap,
    zero_tolerance,
)

RIGHT_ANGLE = math.pi / 2
COUNTS = (stable_rank, intrinsic_dimension, participation_ratio, effective_rank)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def frames(generator, *shape):
    """Uniformly random orthonormal columns, (..., d, k)."""
    Q, R = torch.linalg.qr(normal(generator, *shape))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def planes_at(angles, d, generator):
    """Two k-planes in R^d with these principal angles, in random bases of a random position."""
    k = len(angles)
    ambient = frames(generator, d, 2 * k)
    # cos(π/2) is 6e-17 in floating point; the truth is 0.
    cosines = torch.where(angles == RIGHT_ANGLE, 0, angles.cos())
    U, V = ambient[:, :k], ambient[:, :k] * cosines + ambient[:, k:] * angles.sin()
    return U @ frames(generator, k, k), V @ frames(generator, k, k)


@pytest.mark.parametrize(
    "angles",
    [
        [1e-9, 0.3, 1.2, RIGHT_ANGLE],
        [0.0, 0.0, 1e-12, 1e-9, 1e-6],
        [RIGHT_ANGLE, RIGHT_ANGLE],
        [1.0, RIGHT_ANGLE - 1e-9, RIGHT_ANGLE],
        [0.0],
    ],
)
def test_planes_planted_at_known_angles_have_these_angles(angles, generator):
    angles = torch.tensor(angles, dtype=torch.float64)
    U, V = planes_at(angles, 13, generator)
    assert torch.allclose(principal_angles(U, V), angles, rtol=0, atol=1e-14)
    assert torch.allclose(subspace_overlap(U, V), angles.cos().square().mean(), rtol=0, atol=1e-14)


def angles_in_fifty_digits(u, v):
    """Principal angles by the textbook's arc cosine, which so many digits can afford at 0 too (SciPy's cannot)."""
    with mpmath.workdps(50):
        P, Q = (mpmath.qr(mpmath.matrix(basis.tolist()), mode="skinny")[0] for basis in (u, v))
        cosines = mpmath.svd_r(P.T * Q, compute_uv=False)
        return [float(mpmath.acos(min(cosine, 1))) for cosine in cosines]


@pytest.mark.parametrize(("k", "other"), [(1, 1), (2, 5), (5, 2), (7, 9), (9, 10)])
def test_angles_between_subspaces_of_any_dimensions_are_those_of_fifty_digits(k, other, generator):
    U, V = frames(generator, 6, 10, k), frames(generator, 6, 10, other)
    angles = principal_angles(U, V)
    assert angles.shape == (6, min(k, other))
    for one, u, v in zip(angles, U, V, strict=True):
        np.testing.assert_allclose(one, angles_in_fifty_digits(u, v), rtol=0, atol=1e-14)


def test_angles_broadcast_over_leading_axes(generator):
    U, V = frames(generator, 8, 2), frames(generator, 3, 4, 8, 3)
    angles = principal_angles(U, V)
    assert angles.shape == (3, 4, 2)
    assert torch.allclose(angles[1, 2], principal_angles(V[1, 2], U), atol=1e-14)


def test_angle_between_coordinate_axes_is_exactly_right_and_with_itself_exactly_zero():
    axes = torch.eye(5, dtype=torch.float64)
    assert principal_angles(axes[:, :1], axes[:, 1:2]).item() == RIGHT_ANGLE
    assert principal_angles(axes[:, :3], axes[:, :3]).abs().max() == 0


def test_overlap_is_one_inside_zero_outside_and_larger_dimension_over_d_on_average(generator):
    U = frames(generator, 12, 5)
    assert subspace_overlap(U, U[:, :2] @ frames(generator, 2, 2)).item() == pytest.approx(1, abs=1e-14)
    assert subspace_overlap(U[:, :2], U[:, 2:]).item() == pytest.approx(0, abs=1e-14)
    V = frames(generator, 4000, 12, 3)
    overlaps = subspace_overlap(U, V)
    assert overlaps.mean().item() == pytest.approx(5 / 12, abs=6 * overlaps.std().item() / math.sqrt(4000))


def test_effective_numbers_of_directions_are_ordered_on_every_spectrum(generator):
    spectra = normal(generator, 2000, 30) * normal(generator, 2000, 30).mul(2).exp()
    bounds = [torch.ones(2000), *(count(spectra) for count in COUNTS), torch.full((2000,), 30.0)]
    for smaller, larger in itertools.pairwise(bounds):
        assert (smaller <= larger * (1 + 1e-14)).all()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_equal_magnitudes_count_d_and_a_single_direction_counts_one(count, size, generator):
    equal = size * normal(generator, 4, 9).sign()
    single = torch.zeros(4, 9, dtype=torch.float64)
    single[:, 3] = -size
    assert torch.allclose(count(equal), torch.full((4,), 9.0, dtype=torch.float64), rtol=1e-14)
    assert torch.allclose(count(single), torch.ones(4, dtype=torch.float64), rtol=1e-14)
    assert count(torch.zeros(2, 9)).isnan().all()


def test_counts_of_a_worked_spectrum():
    spectrum = torch.tensor([-4.0, 0.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    assert stable_rank(spectrum).item() == pytest.approx(22 / 16)
    assert intrinsic_dimension(spectrum).item() == pytest.approx(8 / 4)
    assert participation_ratio(spectrum).item() == pytest.approx(64 / 22)
    # p = 1/2, 1/4, 1/8, 1/8 has entropy 7/4 bits.
    assert effective_rank(spectrum).item() == pytest.approx(2**1.75)
    assert condition_number(spectrum).item() == math.inf
    assert condition_number(spectrum[[0, 2, 3]]).item() == 4
    assert condition_number(torch.zeros(3)).isnan()


def test_quantile_ratio_is_that_of_numpy(generator):
    spectra = normal(generator, 5, 37)
    expected = np.quantile(spectra.abs(), 0.95, axis=1) / np.quantile(spectra.abs(), 0.05, axis=1)
    np.testing.assert_allclose(quantile_ratio(spectra), expected, rtol=1e-13)
    assert quantile_ratio(torch.zeros(4)).isnan()
    assert quantile_ratio(torch.tensor([-3.0])).item() == 1


def test_inertia_of_a_planted_indefinite_matrix_is_the_planted_one(generator):
    d, planted = 40, (17, 8, 15)
    magnitudes = normal(generator, 6, d).abs() + 0.1
    signs = torch.tensor([1.0] * planted[0] + [0.0] * planted[1] + [-1.0] * planted[2], dtype=torch.float64)
    Q = frames(generator, 6, d, d)
    eigenvalues = torch.linalg.eigvalsh(Q @ (magnitudes * signs).diag_embed() @ Q.mT)
    found = inertia(eigenvalues, zero_tolerance(eigenvalues))
    for count, expected in zip(found, planted, strict=True):
        assert (count == expected).all()
    assert (inertia(eigenvalues, 100.0)[1] == d).all()


def test_zero_tolerance_is_that_of_the_precision_the_matrix_was_built_in():
    eigenvalues = torch.tensor([[-3.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    assert zero_tolerance(eigenvalues).item() == pytest.approx(60 * 2.0**-52)
    assert zero_tolerance(eigenvalues, torch.float32).item() == pytest.approx(60 * 2.0**-23)


def test_spectral_gap_is_the_widest_step_between_magnitudes_above_the_tolerance():
    spectra = torch.tensor(
        [[-100.0, 2.0, 1.0, 1e-9], [8.0, 1e-9, 4.0, -6.0], [5.0, 0.0, 1e-9, 0.0], [0.0, 0.0, 0.0, 0.0]]
    ).double()
    gap, position = spectral_gap(spectra, torch.full((4,), 1e-6))
    assert gap[:2].tolist() == pytest.approx([math.log(50), math.log(6 / 4)])
    assert position[:2].tolist() == [1, 2]
    assert gap[2:].isnan().all()
    assert position[2:].isnan().all()
    gap, position = spectral_gap(spectra[0], 0.0)
    assert (gap.item(), position.item()) == (pytest.approx(math.log(1e9)), 3)


def test_equal_eigenvalues_have_gap_zero_at_the_first_position_and_one_eigenvalue_has_none():
    gap, position = spectral_gap(torch.full((5,), -2.0), 1e-3)
    assert (gap.item(), position.item()) == (0, 1)
    assert all(value.isnan() for value in spectral_gap(torch.tensor([2.0]), 0.0))


def planted(eigenvalues, generator):
    """Symmetric matrices with these spectra, (B, d), and their product with vectors."""
    Q = frames(generator, *eigenvalues.shape, eigenvalues.shape[-1])
    H = Q @ eigenvalues.diag_embed() @ Q.mT
    H = (H + H.mT) / 2
    return H, lambda v: (H @ v.unsqueeze(-1)).squeeze(-1)


def test_all_steps_of_lanczos_give_the_whole_spectrum_and_orthonormal_eigenvectors(generator):
    H, multiply = planted(normal(generator, 4, 25), generator)
    krylov = lanczos(multiply, normal(generator, 4, 25), 25, generator)
    values, coefficients, residuals = krylov.ritz()
    assert torch.allclose(values, torch.linalg.eigvalsh(H), rtol=0, atol=1e-12)
    vectors = krylov.basis @ coefficients
    assert torch.allclose(vectors.mT @ vectors, torch.eye(25).double().expand(4, -1, -1), rtol=0, atol=1e-12)
    assert torch.allclose(H @ vectors, vectors * values.unsqueeze(1), rtol=0, atol=1e-12)
    assert residuals.max() < 1e-12


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_repeated_eigenvalues_of_any_size_are_found_as_often_as_they_occur(size, generator):
    spectra = size * torch.tensor(
        [[3.0] * 4 + [-1.0] * 5 + [0.0] * 3, [2.0] * 12, [0.0] * 12, list(range(12))], dtype=torch.float64
    )
    _, multiply = planted(spectra, generator)
    krylov = lanczos(multiply, normal(generator, 4, 12), 12, generator)
    values, _, residuals = krylov.ritz()
    assert torch.allclose(values, spectra.sort(-1).values, rtol=0, atol=1e-12 * size)
    assert residuals.max() < 1e-12 * size
    # A multiple of the identity closes the Krylov space at every step.
    assert (krylov.beta[1:3] == 0).all()


def test_matrices_of_very_different_size_do_not_disturb_one_another(generator):
    spectra = torch.tensor([[2.0] * 4 + [1.0] * 4]) * torch.tensor([[1e-30], [1.0], [1e30]]).double()
    H, multiply = planted(spectra, generator)
    values = lanczos(multiply, normal(generator, 3, 8), 8, generator).ritz()[0]
    error = (values - torch.linalg.eigvalsh(H)).abs().amax(1) / spectra.abs().amax(1)
    assert error.max() < 1e-12


@pytest.mark.parametrize("steps", [1, 4, 15, 29])
def test_every_ritz_value_has_an_eigenvalue_within_its_residual_bound(steps, generator):
    H, multiply = planted(normal(generator, 5, 30), generator)
    krylov = lanczos(multiply, normal(generator, 5, 30), steps, generator)
    values, coefficients, residuals = krylov.ritz()
    bound = residuals + krylov.roundoff.unsqueeze(1)
    distance = (values.unsqueeze(-1) - torch.linalg.eigvalsh(H).unsqueeze(1)).abs().amin(-1)
    assert (distance <= bound).all()
    vectors = krylov.basis @ coefficients
    actual = (H @ vectors - vectors * values.unsqueeze(1)).norm(dim=1)
    assert torch.allclose(actual, residuals, rtol=1e-8, atol=1e-12)


def test_basis_stays_orthonormal_after_the_extremes_have_converged(generator):
    spectra = torch.cat([normal(generator, 2, 78), torch.tensor([[50.0, -80.0]] * 2)], dim=1).double()
    _, multiply = planted(spectra, generator)
    basis = lanczos(multiply, normal(generator, 2, 80), 70, generator).basis
    assert torch.allclose(basis.mT @ basis, torch.eye(70).double().expand(2, -1, -1), rtol=0, atol=1e-13)


def test_lanczos_repeats_itself_with_the_same_generator(seed):
    def run():
        generator = torch.Generator().manual_seed(seed)
        _, multiply = planted(torch.ones(2, 6).double(), generator)
        return lanczos(multiply, normal(generator, 2, 6), 6, generator).basis

    assert torch.equal(run(), run())


@pytest.mark.parametrize("steps", [0, 7])
def test_a_number_of_steps_outside_the_space_is_refused(steps, generator):
    with pytest.raises(ValueError, match=rf"steps must lie in 1 … d = 6, found {steps}"):
        lanczos(lambda v: v, normal(generator, 2, 6), steps, generator)
