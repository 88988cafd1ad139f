"""Angles, shapes of a spectrum, geometric bases and Lanczos against closed forms, planted cases and SciPy."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from iredinterp.linalg import (
    BASES,
    GeometricBases,
    beta_band,
    condition_number,
    effective_rank,
    haar_deviation,
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


@pytest.mark.parametrize(("k", "other"), [(1, 1), (2, 5), (5, 2), (7, 9), (9, 10)])
def test_angles_between_subspaces_of_any_dimensions_are_those_of_scipy(k, other, generator):
    U, V = frames(generator, 6, 10, k), frames(generator, 6, 10, other)
    angles = principal_angles(U, V)
    assert angles.shape == (6, min(k, other))
    for one, u, v in zip(angles, U, V, strict=True):
        np.testing.assert_allclose(one, scipy.linalg.subspace_angles(u, v)[::-1], rtol=0, atol=1e-13)


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


def bases_of(generator, n=5, m=4, q=2, size=3):
    return GeometricBases.from_reference(normal(generator, size, n, m), q)


def explicit_projectors(bases, name):
    """d×d projectors from Kronecker products, row-major."""
    n, m = bases.shape
    eye_n, eye_m = np.eye(n), np.eye(m)
    result = []
    for U, V in zip(bases.U.numpy(), bases.V.numpy(), strict=True):
        P_U, P_V = U @ U.T, V @ V.T
        column, row, core = np.kron(P_U, eye_m), np.kron(eye_n, P_V), np.kron(P_U, P_V)
        outer = sum(np.outer(w, w) for w in (np.kron(u, v) for u, v in zip(U.T, V.T, strict=True)))
        swap = np.eye(n * m).reshape(n, m, n, m).transpose(1, 0, 2, 3).reshape(n * m, n * m)
        symmetric = (np.eye(n * m) + swap) / 2
        table = {"column": column, "row": row, "core": core, "outer": outer, "symmetric": symmetric}
        result.append((table | {"tangent": column + row - core})[name])
    return torch.from_numpy(np.stack(result))


@pytest.mark.parametrize("name", BASES)
def test_projections_are_the_kronecker_projectors_of_their_stated_dimension(name, generator):
    n, m = (4, 4) if name == "symmetric" else (5, 3)
    bases = bases_of(generator, n, m)
    identity = torch.eye(n * m, dtype=torch.float64).expand(3, -1, -1)
    P = bases.project(name, identity)
    assert torch.allclose(P, explicit_projectors(bases, name), rtol=0, atol=1e-13)
    assert torch.allclose(P, P.mT, rtol=0, atol=1e-13)
    assert torch.allclose(P @ P, P, rtol=0, atol=1e-13)
    dimensions = P.diagonal(dim1=1, dim2=2).sum(-1)
    assert torch.allclose(dimensions, torch.full_like(dimensions, bases.k_dim(name)), atol=1e-12)
    assert bases.chance(name) == bases.k_dim(name) / (n * m)


@pytest.mark.parametrize("name", BASES)
def test_matrices_and_their_flattenings_project_alike(name, generator):
    bases = bases_of(generator, 4, 4)
    stack = normal(generator, 3, 4, 4, 6)
    projected = bases.project(name, stack)
    assert projected.shape == stack.shape
    assert torch.equal(projected.flatten(1, 2), bases.project(name, stack.flatten(1, 2)))


def test_tangent_space_is_the_velocities_of_curves_of_rank_q(generator):
    n, m, q = 6, 4, 2
    A, A_dot = normal(generator, 2, 3, n, q)
    B, B_dot = normal(generator, 2, 3, m, q)
    bases = GeometricBases.from_reference(A @ B.mT, q)
    velocity = (A_dot @ B.mT + A @ B_dot.mT).unsqueeze(-1)
    assert torch.allclose(bases.project("tangent", velocity), velocity, rtol=0, atol=1e-12)


def test_tangent_leaves_exactly_the_directions_that_miss_both_spaces(generator):
    bases = bases_of(generator, 6, 5)
    Z = normal(generator, 3, 6, 5)
    normal_part = Z - bases.U @ bases.U.mT @ Z
    normal_part = (normal_part - normal_part @ bases.V @ bases.V.mT).unsqueeze(-1)
    assert bases.project("tangent", normal_part).abs().max() < 1e-13
    remainder = Z.unsqueeze(-1) - bases.project("tangent", Z.unsqueeze(-1))
    assert torch.allclose(remainder, normal_part, rtol=0, atol=1e-13)


def test_column_and_row_spaces_are_those_of_the_reference(generator):
    A, B = normal(generator, 3, 6, 2), normal(generator, 3, 5, 2)
    bases = GeometricBases.from_reference(A @ B.mT, 2)
    in_columns = (A @ normal(generator, 3, 2, 5)).unsqueeze(-1)
    in_rows = (normal(generator, 3, 6, 2) @ B.mT).unsqueeze(-1)
    assert torch.allclose(bases.project("column", in_columns), in_columns, rtol=0, atol=1e-12)
    assert torch.allclose(bases.project("row", in_rows), in_rows, rtol=0, atol=1e-12)
    reference = (A @ B.mT).unsqueeze(-1)
    assert torch.allclose(bases.project("outer", reference), reference, rtol=0, atol=1e-12)


def test_gap_is_relative_to_the_largest_singular_value_and_vanishes_without_one(generator):
    planted = torch.tensor([[8.0, 4.0, 1.0], [5.0, 2.0, 2.0], [0.0, 0.0, 0.0]]).double()
    Y = frames(generator, 3, 5, 3) @ planted.diag_embed() @ frames(generator, 3, 3, 3).mT
    first = GeometricBases.from_reference(Y, 1).gap
    assert torch.allclose(first[:2], torch.tensor([0.5, 0.6]).double(), atol=1e-13)
    second = GeometricBases.from_reference(Y, 2).gap
    assert torch.allclose(second[:2], torch.tensor([3 / 8, 0.0]).double(), atol=1e-13)
    full = GeometricBases.from_reference(Y, 3).gap
    assert torch.allclose(full[:2], torch.tensor([1 / 8, 2 / 5]).double(), atol=1e-13)
    assert all(gap[2].isnan() for gap in (first, second, full))


@pytest.mark.parametrize("name", BASES)
def test_curvature_share_is_one_inside_zero_outside_and_k_over_d_for_isotropic_curvature(name, generator):
    bases = bases_of(generator, 4, 4)
    identity = torch.eye(16, dtype=torch.float64).expand(3, -1, -1)
    P = explicit_projectors(bases, name)
    factor = normal(generator, 3, 16, 16)
    H = factor @ factor.mT
    expected = (P @ H).diagonal(dim1=1, dim2=2).sum(-1) / H.diagonal(dim1=1, dim2=2).sum(-1)
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.allclose(bases.curvature_share(name, H), expected, atol=1e-13)
    assert torch.allclose(bases.curvature_share(name, P @ H @ P), ones, atol=1e-13)
    assert torch.allclose(
        bases.curvature_share(name, (identity - P) @ H @ (identity - P)), 0 * ones, atol=1e-13
    )
    assert torch.allclose(bases.curvature_share(name, -2 * identity), bases.chance(name) * ones, atol=1e-13)
    assert bases.curvature_share(name, 0 * H).isnan().all()


@pytest.mark.parametrize("dimension", [1, 3])
@pytest.mark.parametrize("name", ["tangent", "outer"])
def test_alignment_of_random_spaces_has_the_haar_mean_and_deviation(name, dimension, generator):
    draws = 20_000
    one = bases_of(generator, 4, 3, 1, size=1)
    bases = GeometricBases(*(value.expand(draws, *value.shape[1:]) for value in (one.U, one.V, one.gap)))
    alignment = bases.alignment(name, frames(generator, draws, 12, dimension))
    deviation = haar_deviation(bases.k_dim(name), 12, dimension)
    assert alignment.mean().item() == pytest.approx(bases.chance(name), abs=6 * deviation / math.sqrt(draws))
    assert alignment.std().item() == pytest.approx(deviation, rel=0.1)
    if dimension == 1:
        low, high = beta_band(bases.k_dim(name), 12, 0.9)
        for tail in (alignment < low, alignment > high):
            assert tail.double().mean().item() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("k", "d"), [(1, 2), (3, 12), (75, 100)])
def test_band_and_deviation_of_one_direction_are_those_of_the_beta_law(k, d):
    law = scipy.stats.beta(k / 2, (d - k) / 2)
    assert beta_band(k, d, 0.95) == pytest.approx(law.interval(0.95), rel=1e-9)
    assert haar_deviation(k, d, 1) == pytest.approx(law.std())


def test_alignment_with_nothing_and_with_everything_is_certain():
    assert beta_band(0, 7) == (0, 0)
    assert beta_band(7, 7) == (1, 1)
    assert haar_deviation(7, 7, 2) == haar_deviation(0, 7, 2) == haar_deviation(3, 7, 7) == 0
    assert haar_deviation(1, 1, 1) == 0


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_the_reference_cannot_have_is_refused(rank, generator):
    with pytest.raises(ValueError, match=rf"rank must lie in 1 … min\(n, m\) = 3, found {rank}"):
        GeometricBases.from_reference(normal(generator, 2, 5, 3), rank)


def test_unknown_bases_wrong_sizes_and_symmetry_of_oblong_matrices_are_refused(generator):
    bases = bases_of(generator, 5, 3)
    with pytest.raises(ValueError, match=r"unknown basis 'columns': use one of column, row"):
        bases.project("columns", normal(generator, 3, 15, 1))
    with pytest.raises(ValueError, match=r"'symmetric' needs square matrices, found 5×3"):
        bases.k_dim("symmetric")
    with pytest.raises(ValueError, match=r"shape \(B, 15, k\) or \(B, 5, 3, k\), found \(3, 3, 5, 1\)"):
        bases.project("row", normal(generator, 3, 3, 5, 1))


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
