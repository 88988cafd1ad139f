"""Displacements of exact norm against dense projectors, closed-form angles and planted crossings."""

import itertools
import math

import pytest
import scipy.stats
import torch

from iredinterp.errors import ConfigError
from iredinterp.geometry.fixed_rank import FixedRankPoint
from iredinterp.geometry.perturb import (
    ARMS,
    arm_directions,
    rank_one_normal,
    retracted,
    swapped_directions,
)
from iredinterp.linalg import principal_angles

N, M = 8, 7
RANKS = (1, 2, 3)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def frames(generator, *shape):
    return torch.linalg.qr(normal(generator, *shape)).Q


def matrices_of_rank(rank, generator, count=5, n=N, m=M):
    """U diag(s) Vᵀ with singular values between 1 and 2, and U, s, V."""
    s = (
        (1 + torch.rand(count, rank, generator=generator, dtype=torch.float64))
        .sort(-1, descending=True)
        .values
    )
    U, V = frames(generator, count, n, rank), frames(generator, count, m, rank)
    return U * s.unsqueeze(-2) @ V.mT, U, s, V


def arms(Y, rank, generator):
    return arm_directions(FixedRankPoint.from_matrix(Y, rank), normal(generator, *Y.shape))


def tangent(U, V, Z):
    """The part of Z tangent at a point with these subspaces."""
    Z = Z - (Z - U @ (U.mT @ Z)) @ (torch.eye(len(V[0]), dtype=V.dtype) - V @ V.mT)
    return Z / norm(Z)[:, None, None]


def norm(Z):
    return Z.square().sum((-2, -1)).sqrt()


def ranks_of(Y):
    return (torch.linalg.svdvals(Y) > 1e-10).sum(-1)


def leading(Y, rank):
    U, _, Vh = torch.linalg.svd(Y)
    return U[..., :rank], Vh.mT[..., :rank]


def turned(Y, other, rank):
    """Largest angles between the leading column spaces and between the leading row spaces, (B, 2)."""
    pairs = zip(leading(Y, rank), leading(other, rank), strict=True)
    return torch.stack([principal_angles(U, V)[..., -1] for U, V in pairs], dim=-1)


@pytest.mark.parametrize("rank", RANKS)
def test_arms_are_unit_directions_each_inside_its_block_and_orthogonal_to_the_others(rank, generator):
    Y, U, _, V = matrices_of_rank(rank, generator)
    directions = arms(Y, rank, generator)
    assert tuple(directions) == ARMS == ("core", "column", "row", "normal")
    inside_U, inside_V = U @ U.mT, V @ V.mT
    outside_U, outside_V = torch.eye(N) - inside_U, torch.eye(M) - inside_V
    sides = {
        "core": (inside_U, inside_V),
        "column": (outside_U, inside_V),
        "row": (inside_U, outside_V),
        "normal": (outside_U, outside_V),
    }
    for arm, (left, right) in sides.items():
        B = directions[arm]
        assert torch.allclose(norm(B), torch.ones(5, dtype=B.dtype), rtol=0, atol=1e-15)
        assert torch.allclose(left @ B @ right, B, rtol=0, atol=1e-14)
    for one, other in itertools.combinations(directions.values(), 2):
        assert (one * other).sum((-2, -1)).abs().max() < 1e-15


@pytest.mark.parametrize("rank", RANKS)
def test_tangent_arms_keep_the_rank_and_the_normal_arm_raises_it(rank, generator):
    Y, _, _, _ = matrices_of_rank(rank, generator)
    point, noise = FixedRankPoint.from_matrix(Y, rank), normal(generator, *Y.shape)
    directions = arm_directions(point, noise)
    for arm in ("core", "column", "row"):
        assert (ranks_of(Y + 0.3 * directions[arm]) == rank).all(), arm
    assert (ranks_of(Y + 0.3 * directions["normal"]) == min(N, M)).all()
    assert (ranks_of(Y + 0.3 * rank_one_normal(point, noise)) == rank + 1).all()


@pytest.mark.parametrize("rank", RANKS)
def test_core_turns_neither_subspace_column_and_row_one_each(rank, generator):
    Y, _, _, _ = matrices_of_rank(rank, generator)
    directions = arms(Y, rank, generator)
    turns = {arm: turned(Y, Y + 0.5 * B, rank) for arm, B in directions.items()}
    assert turns["core"].max() < 1e-13
    assert turns["column"][:, 1].max() < 1e-13
    assert turns["row"][:, 0].max() < 1e-13
    assert turns["column"][:, 0].min() > 0.01
    assert turns["row"][:, 1].min() > 0.01


@pytest.mark.parametrize("radius", [1e-6, 0.3, 5.0])
def test_at_rank_one_a_column_or_row_arm_turns_its_space_by_the_arc_tangent_of_radius_over_s(
    radius, generator
):
    Y, _, s, _ = matrices_of_rank(1, generator)
    directions = arms(Y, 1, generator)
    expected = torch.atan(radius / s[:, 0])
    assert torch.allclose(turned(Y, Y + radius * directions["column"], 1)[:, 0], expected, rtol=0, atol=1e-13)
    assert torch.allclose(turned(Y, Y + radius * directions["row"], 1)[:, 1], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", RANKS)
def test_tangents_of_the_angles_of_a_column_arm_are_singular_values_of_the_direction_over_s(rank, generator):
    Y, U, s, V = matrices_of_rank(rank, generator)
    B = arms(Y, rank, generator)["column"]
    tangents = torch.linalg.svdvals(0.7 * B @ V / s.unsqueeze(-2)).flip(-1)
    angles = principal_angles(U, leading(Y + 0.7 * B, rank)[0])
    assert torch.allclose(angles, tangents.atan(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", RANKS)
def test_normal_arm_keeps_both_subspaces_until_its_singular_value_exceeds_the_last_one(rank, generator):
    Y, U, s, V = matrices_of_rank(rank, generator)
    B = arms(Y, rank, generator)["normal"]
    below = 0.9 * s[:, -1] / torch.linalg.svdvals(B)[:, 0]
    assert turned(Y, Y + below[:, None, None] * B, rank).max() < 1e-12
    above = 1e3 * s[:, 0]
    for before, after in zip((U, V), leading(Y + above[:, None, None] * B, rank), strict=True):
        assert (swapped_directions(before, after) == rank).all()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("factor", "swapped"), [(0.9, 0), (1.1, 1), (50.0, 1)])
def test_rank_one_normal_swaps_exactly_one_direction_beyond_the_last_singular_value(
    rank, factor, swapped, generator
):
    Y, U, s, V = matrices_of_rank(rank, generator)
    B = rank_one_normal(FixedRankPoint.from_matrix(Y, rank), normal(generator, *Y.shape))
    assert torch.allclose(norm(B), torch.ones(5, dtype=B.dtype), rtol=0, atol=1e-15)
    after = leading(Y + (factor * s[:, -1])[:, None, None] * B, rank)
    for before, now in zip((U, V), after, strict=True):
        assert (swapped_directions(before, now) == swapped).all()


def test_arms_are_uniform_on_the_unit_sphere_of_their_block(generator):
    Y, U, _, V = matrices_of_rank(1, generator, count=1, n=4, m=3)
    point = FixedRankPoint.from_matrix(Y.expand(5000, 4, 3), 1)
    directions = arm_directions(point, normal(generator, 5000, 4, 3))
    outside_U = torch.linalg.svd(U[0]).U[:, 1:]
    outside_V = torch.linalg.svd(V[0]).U[:, 1:]
    axes = {
        "column": (outside_U, V[0], 3),
        "row": (U[0], outside_V, 2),
        "normal": (outside_U, outside_V, 6),
    }
    for arm, (left, right, k) in axes.items():
        coordinates = left.mT @ directions[arm] @ right
        for square in coordinates.square().flatten(1).T:
            assert scipy.stats.kstest(square, scipy.stats.beta(0.5, (k - 1) / 2).cdf).pvalue > 1e-7, arm
        assert (coordinates.mean(0).abs() < 7 / math.sqrt(5000 * k)).all()
    signs = (U[0].mT @ directions["core"] @ V[0]).flatten()
    assert torch.allclose(signs.abs(), torch.ones(5000, dtype=signs.dtype), rtol=0, atol=1e-14)
    assert abs(signs.mean()) < 7 / math.sqrt(5000)


def test_factors_of_rank_one_normal_are_uniform_on_the_spheres_of_the_complements(generator):
    Y, U, _, V = matrices_of_rank(1, generator, count=1, n=5, m=4)
    point = FixedRankPoint.from_matrix(Y.expand(5000, 5, 4), 1)
    B = rank_one_normal(point, normal(generator, 5000, 5, 4))
    left = (torch.linalg.svd(U[0]).U[:, 1:].mT @ B).square().sum(-1)
    right = (B @ torch.linalg.svd(V[0]).U[:, 1:]).square().sum(-2)
    for squares, k in ((left, 4), (right, 3)):
        for square in squares.T:
            assert scipy.stats.kstest(square, scipy.stats.beta(0.5, (k - 1) / 2).cdf).pvalue > 1e-7


def test_an_isotropic_quadratic_rises_equally_in_every_arm(generator):
    A, _, _, _ = matrices_of_rank(2, generator)
    radii = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1
    for arm, B in arms(A, 2, generator).items():
        rise = (A + radii[:, None, None] * B - A).square().sum((-2, -1)) / 2
        assert torch.allclose(rise, radii.square() / 2, rtol=1e-13, atol=0), arm


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("relative", [1e-3, 0.1, 0.3])
def test_retraction_keeps_the_rank_and_reaches_the_radius_along_mixed_tangent_directions(
    rank, relative, generator
):
    Y, U, _, V = matrices_of_rank(rank, generator)
    radius = relative * norm(Y)
    found = retracted(Y, rank, 7 * tangent(U, V, normal(generator, *Y.shape)), radius)
    assert found.converged.dtype == torch.bool
    assert found.converged.all()
    assert torch.allclose(norm(found.matrix - Y), radius, rtol=2e-9, atol=0)
    assert torch.allclose(found.distance, norm(found.matrix - Y), rtol=1e-13, atol=0)
    assert (ranks_of(found.matrix) == rank).all()


def test_retraction_leaves_the_straight_line_at_second_order(generator):
    Y, U, _, V = matrices_of_rank(2, generator)
    direction = tangent(U, V, normal(generator, *Y.shape))
    far, near = (norm(retracted(Y, 2, direction, h).matrix - Y - h * direction) for h in (1e-3, 1e-4))
    assert ((far / near - 100).abs() < 5).all()


@pytest.mark.parametrize("arm", ["core", "column", "row"])
def test_retraction_along_a_single_arm_is_the_straight_line(arm, generator):
    Y, _, _, _ = matrices_of_rank(2, generator)
    B = arms(Y, 2, generator)[arm]
    found = retracted(Y, 2, B, 0.4)
    assert found.converged.all()
    assert torch.allclose(found.matrix, Y + 0.4 * B, rtol=0, atol=1e-12)


def test_radii_inside_the_jump_of_a_planted_crossing_are_reported_as_missed(generator):
    # With Y = diag(2, 1) and ξ = −e₂e₂ᵀ + e₁e₃ᵀ + e₃e₁ᵀ the second singular value, 1 − s, meets the third,
    # √(1+s²) − 1, at s = 3/4, where ‖Y′ − Y‖ jumps from √1.525 to √2.125 and goes on as √(1 + 2s²).
    Y, direction = torch.zeros(2, 4, 5, dtype=torch.float64)
    Y[0, 0], Y[1, 1] = 2, 1
    direction[1, 1], direction[0, 2], direction[2, 0] = -1, 1, 1
    left, right = frames(generator, 4, 4), frames(generator, 5, 5)
    Y, direction = (left @ Z @ right for Z in (Y, direction))
    radii = torch.tensor([1.0, 1.25, 1.35, 1.44, 2.0], dtype=torch.float64)
    found = retracted(Y.expand(5, 4, 5), 2, direction.expand(5, 4, 5), radii)
    assert found.converged.tolist() == [True, False, False, False, True]
    assert torch.allclose(norm(found.matrix - Y), found.distance, rtol=0, atol=1e-12)
    assert ((found.distance - radii).abs()[1:4] > 1e-3).all()
    last = left.mT @ found.matrix[-1] @ right.mT
    block = torch.zeros(4, 5, dtype=torch.float64)
    block[0, 0], block[0, 2], block[2, 0] = 2, math.sqrt(1.5), math.sqrt(1.5)
    assert torch.allclose(last, block, rtol=0, atol=1e-8)


def test_retraction_reports_directions_and_matrices_that_cannot_reach_the_radius(generator):
    Y, _, _, _ = matrices_of_rank(2, generator)
    B = arms(Y, 2, generator)
    off_tangent = retracted(Y, 2, B["normal"], 0.2)
    off_manifold = retracted(Y + B["normal"] / 2, 2, B["column"], 0.2)
    for found in (off_tangent, off_manifold):
        assert not found.converged.any()
        assert found.matrix.isfinite().all()
        assert ((found.distance - 0.2).abs() > 0.01).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_row_without_a_point_is_nan_and_leaves_the_others_alone(bad, generator):
    Y, U, _, V = matrices_of_rank(2, generator)
    noise, direction = normal(generator, *Y.shape), tangent(U, V, normal(generator, *Y.shape))
    broken, others = Y.clone(), [0, 1, 3, 4]
    broken[2] = bad
    good, point = FixedRankPoint.from_matrix(Y, 2), FixedRankPoint.from_matrix(broken, 2)
    expected = {**arm_directions(good, noise), "rank-one": rank_one_normal(good, noise)}
    found = {**arm_directions(point, noise), "rank-one": rank_one_normal(point, noise)}
    for name, B in found.items():
        assert B[2].isnan().all(), name
        assert torch.allclose(B[others], expected[name][others], rtol=0, atol=1e-14), name
    retraction = retracted(broken, 2, direction, 0.1)
    assert retraction.converged[others].all()
    if bad != 0:
        assert retraction.matrix[2].isnan().all()
        assert not retraction.converged[2]


def test_noise_direction_or_radius_that_is_not_finite_spoils_its_own_row_only(generator):
    Y, U, _, V = matrices_of_rank(2, generator, count=3)
    spoilt = normal(generator, *Y.shape)
    spoilt[1, 2, 3] = math.nan
    point = FixedRankPoint.from_matrix(Y, 2)
    for B in (*arm_directions(point, spoilt).values(), rank_one_normal(point, spoilt)):
        assert B.isnan().any(-1).any(-1).tolist() == [False, True, False]
        assert B[1].isnan().all()
    direction = tangent(U, V, normal(generator, *Y.shape))
    assert retracted(Y, 2, spoilt, 0.1).converged[1].item() is False
    radius = torch.tensor([0.1, math.nan, 0.1])
    assert retracted(Y, 2, direction, radius).converged.tolist() == [True, False, True]
    direction[1] = 0
    assert retracted(Y, 2, direction, 0.1).converged.tolist() == [True, False, True]


def test_a_matrix_of_lower_rank_has_no_arms(generator):
    Y, _, _, _ = matrices_of_rank(1, generator)
    assert all(B.isnan().all() for B in arms(Y, 2, generator).values())


def test_float32_matrices_and_noise_give_float64_directions_of_unit_norm(generator):
    Y, _, _, _ = matrices_of_rank(2, generator)
    point = FixedRankPoint.from_matrix(Y.float(), 2)
    for B in arm_directions(point, normal(generator, *Y.shape).float()).values():
        assert B.dtype == torch.float64
        assert torch.allclose(norm(B), torch.ones(5, dtype=B.dtype), rtol=0, atol=1e-15)
    assert retracted(Y.float(), 2, Y.float(), 0.1).matrix.dtype == torch.float64


def test_swapped_directions_counts_right_angles_only():
    e = torch.eye(6, dtype=torch.float64)
    nearly = math.cos(1e-4) * e[:, [3]] + math.sin(1e-4) * e[:, [2]]
    others = [
        e[:, [0, 1, 2]],
        e[:, [0, 1, 4]],
        e[:, [5, 3, 1]],
        e[:, 3:],
        torch.cat([e[:, :2], nearly], dim=1),
    ]
    U = e[:, [2, 0, 1]].expand(5, 6, 3)
    assert swapped_directions(U, torch.stack(others)).tolist() == [0, 1, 2, 3, 0]


def test_bad_input_is_refused_by_name(generator):
    Y, _, _, _ = matrices_of_rank(2, generator)
    point = FixedRankPoint.from_matrix(Y, 2)
    for function in (arm_directions, rank_one_normal):
        with pytest.raises(ConfigError, match=r"expected matrices of shape \(5, 8, 7\), found \(5, 7, 8\)"):
            function(point, Y.mT)
    with pytest.raises(
        ConfigError, match=r"direction must have the shape of Y, \(5, 8, 7\), found \(5, 7, 8\)"
    ):
        retracted(Y, 2, Y.mT, 0.1)
    with pytest.raises(ConfigError, match="radius must be positive, found -1"):
        retracted(Y, 2, Y, torch.tensor([0.1, 0.1, -1.0, 0.1, 0.1]))
    with pytest.raises(ConfigError, match="rank must lie in 1 … min"):
        retracted(Y, 7, Y, 0.1)
    with pytest.raises(ConfigError, match=r"the same n and k, found \(8, 2\) and \(8, 1\)"):
        swapped_directions(point.U, point.U[..., :1])
