"""Geometric bases against explicit projectors, and chance levels against their laws."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from iredinterp.bases import BASES, GeometricBases, beta_band, haar_deviation


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def frames(generator, *shape):
    """Uniformly random orthonormal columns, (..., d, k)."""
    Q, R = torch.linalg.qr(normal(generator, *shape))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


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
