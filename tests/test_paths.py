"""Paths between matrices of rank r against planted geodesics, and barriers of known height."""

import math

import pytest
import torch

from iredinterp.errors import ConfigError
from iredinterp.geometry.paths import barrier, path_length, straight_path, subspace_geodesic_path
from iredinterp.linalg import principal_angles
from iredinterp.truth.analytic import DoubleWell

N, M = 9, 8
RANKS = (1, 2, 4)
TIMES = torch.linspace(0, 1, 9, dtype=torch.float64)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def frames(generator, *shape):
    return torch.linalg.qr(normal(generator, *shape)).Q


def of_rank(rank, generator, count=4):
    return normal(generator, count, N, rank) @ normal(generator, count, rank, M)


def singular_values(generator, rank, count=4):
    drawn = 1 + torch.rand(count, rank, generator=generator, dtype=torch.float64)
    return drawn.sort(-1, descending=True).values


def swept(generator, size, rank, count=4):
    """Bases moving along geodesics, (B, T, size, r), and their final principal angles, (B, r) ascending."""
    frame = frames(generator, count, 1, size, 2 * rank)
    angles = (0.1 + 1.2 * torch.rand(count, rank, generator=generator, dtype=torch.float64)).sort(-1).values
    turn = (TIMES[:, None] * angles.unsqueeze(1)).unsqueeze(-2)
    return frame[..., :rank] * turn.cos() + frame[..., rank:] * turn.sin(), angles


def planted(generator, rank):
    """A path whose subspaces turn at constant speed and whose middle factor runs straight, and its angles."""
    (U, column_angles), (V, row_angles) = swept(generator, N, rank), swept(generator, M, rank)
    first, last = singular_values(generator, rank), singular_values(generator, rank)
    mixing = frames(generator, 4, rank, rank)
    S = torch.lerp(first.unsqueeze(1), last.unsqueeze(1), TIMES[:, None])
    middle = mixing.unsqueeze(1) * S.unsqueeze(-2) @ mixing.mT.unsqueeze(1)
    return U @ middle @ V.mT, column_angles, row_angles


def leading(Y, rank):
    U, _, Vh = torch.linalg.svd(Y)
    return U[..., :rank], Vh.mT[..., :rank]


def norm(Z):
    return Z.square().sum((-2, -1)).sqrt()


@pytest.mark.parametrize("rank", RANKS)
def test_a_path_planted_on_two_grassmann_geodesics_is_found_from_its_ends(rank, generator):
    expected, _, _ = planted(generator, rank)
    found = subspace_geodesic_path(expected[:, 0], expected[:, -1], rank, TIMES)
    assert torch.allclose(found.matrices, expected, rtol=0, atol=1e-12)
    assert not found.cut_locus.any()
    assert not found.loses_rank.any()
    singular = torch.linalg.svdvals(expected[:, [0, -1]])
    gap = (singular[..., rank - 1] / singular.norm(dim=-1)).amin(-1)
    assert torch.allclose(found.gap, gap, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", RANKS)
def test_half_way_in_time_is_half_way_in_every_principal_angle_at_rank_r(rank, generator):
    ends, column_angles, row_angles = planted(generator, rank)
    path = subspace_geodesic_path(ends[:, 0], ends[:, -1], rank, TIMES).matrices
    singular = torch.linalg.svdvals(path)
    assert singular[..., rank - 1].min() > 0.5
    assert singular[..., rank:].max() < 1e-13
    for start, now, total in zip(
        leading(path[:, 0], rank), leading(path, rank), (column_angles, row_angles), strict=True
    ):
        angles = principal_angles(start.unsqueeze(1).expand_as(now), now)
        assert torch.allclose(angles, TIMES[:, None] * total.unsqueeze(1), rtol=0, atol=1e-12)
        assert torch.allclose(angles[:, 4].norm(dim=-1), total.norm(dim=-1) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", RANKS)
def test_both_paths_reproduce_the_ends_and_only_the_straight_one_raises_the_rank(rank, generator):
    Y0, Y1 = of_rank(rank, generator), of_rank(rank, generator)
    straight, bent = straight_path(Y0, Y1, TIMES), subspace_geodesic_path(Y0, Y1, rank, TIMES).matrices
    assert torch.equal(straight[:, 0], Y0)
    assert torch.equal(straight[:, -1], Y1)
    assert torch.allclose(bent[:, [0, -1]], torch.stack([Y0, Y1], dim=1), rtol=0, atol=1e-12)
    assert torch.linalg.svdvals(bent)[..., rank:].max() < 1e-12
    assert ((torch.linalg.svdvals(straight[:, 1:-1]) > 1e-9).sum(-1) == 2 * rank).all()


def test_ends_of_higher_rank_are_truncated(generator):
    Y0, Y1 = normal(generator, 2, 3, N, M)
    path = subspace_geodesic_path(Y0, Y1, 2, [0.0, 1.0]).matrices
    for end, Y in zip(path.unbind(1), (Y0, Y1), strict=True):
        U, s, Vh = torch.linalg.svd(Y)
        assert torch.allclose(end, U[..., :2] * s[:, None, :2] @ Vh[:, :2], rtol=0, atol=1e-12)


def test_between_equal_column_and_row_spaces_the_subspace_path_is_the_straight_path(generator):
    U, V = frames(generator, 4, N, 3), frames(generator, 4, M, 3)
    Y0, Y1 = (U @ normal(generator, 4, 3, 3) @ V.mT for _ in range(2))
    found = subspace_geodesic_path(Y0, Y1, 3, TIMES)
    assert torch.allclose(found.matrices, straight_path(Y0, Y1, TIMES), rtol=0, atol=1e-11)
    assert not found.cut_locus.any()


@pytest.mark.parametrize("rank", RANKS)
def test_the_way_back_is_the_way_there_reversed(rank, generator):
    Y0, Y1 = of_rank(rank, generator), of_rank(rank, generator)
    there, back = (subspace_geodesic_path(*ends, rank, TIMES) for ends in ((Y0, Y1), (Y1, Y0)))
    assert torch.allclose(there.matrices, back.matrices.flip(1), rtol=0, atol=1e-9)
    assert torch.equal(there.loses_rank, back.loses_rank)


def test_a_reversed_singular_value_makes_the_path_lose_its_rank_at_a_known_time(generator):
    U, V = frames(generator, 4, N, 2), frames(generator, 4, M, 2)
    s = singular_values(generator, 2)
    Y0, Y1 = U * s.unsqueeze(-2) @ V.mT, U * (s * torch.tensor([1, -3])).unsqueeze(-2) @ V.mT
    found = subspace_geodesic_path(Y0, Y1, 2, [0.0, 0.25, 1.0])
    assert found.loses_rank.all()
    assert ((torch.linalg.svdvals(found.matrices) > 1e-12).sum(-1) == torch.tensor([2, 1, 2])).all()
    # A sampled time need not meet the loss.
    assert subspace_geodesic_path(Y0, Y1, 2, [0.0, 1.0]).loses_rank.all()


@pytest.mark.parametrize(("turn", "loses"), [(0.5, False), (0.9, False), (1.0, True)])
def test_a_middle_factor_that_rotates_loses_rank_only_at_half_a_turn(turn, loses, generator):
    U, V = frames(generator, 4, N, 2), frames(generator, 4, M, 2)
    cosine, sine = math.cos(turn * math.pi), math.sin(turn * math.pi) if turn < 1 else 0.0
    rotation = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    stretch = torch.diag(torch.tensor([1.1, 1.0], dtype=torch.float64))
    found = subspace_geodesic_path(U @ stretch @ V.mT, U @ rotation @ stretch @ V.mT, 2, TIMES)
    assert (found.loses_rank == loses).all()


@pytest.mark.parametrize("moved", ["column", "row"])
def test_a_right_angle_between_subspaces_is_flagged_and_the_path_is_still_a_shortest_one(moved, generator):
    left, right = frames(generator, N, N), frames(generator, M, M)
    Y0, Y1 = torch.zeros(2, 2, N, M, dtype=torch.float64)
    Y0[:, 0, 0] = 2
    # The first row stays off the right angle by 1e-4.
    near = torch.tensor([1e-4, 0.0], dtype=torch.float64)
    away, along = 2 * near.cos(), 2 * near.sin()
    Y1[:, 0, 0] = along
    Y1[:, 1, 0], Y1[:, 0, 1] = (away, 0.0) if moved == "column" else (0.0, away)
    Y0, Y1 = (left @ Z @ right for Z in (Y0, Y1))
    found = subspace_geodesic_path(Y0, Y1, 1, TIMES)
    assert found.cut_locus.tolist() == [False, True]
    assert torch.allclose(found.matrices[:, [0, -1]], torch.stack([Y0, Y1], dim=1), rtol=0, atol=1e-12)
    # A quarter of the way is a quarter of a right angle from the start and three quarters from the end.
    for end, angle in ((Y0, math.pi / 8), (Y1, 3 * math.pi / 8)):
        U, now = (leading(Y, 1)[moved == "row"] for Y in (end, found.matrices[:, 2]))
        assert torch.allclose(principal_angles(U, now), torch.full((2, 1), angle).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", ["nan", "inf", "zero", "lower rank", "no gap"])
@pytest.mark.parametrize("end", [0, 1])
def test_rows_whose_ends_have_no_gap_are_nan_and_leave_the_others_alone(bad, end, generator):
    ends = [of_rank(2, generator), of_rank(2, generator)]
    expected = subspace_geodesic_path(*ends, 2, TIMES)
    ends[end] = ends[end].clone()
    ends[end][1] = {
        "nan": torch.full((N, M), math.nan),
        "inf": torch.full((N, M), math.inf),
        "zero": torch.zeros(N, M),
        "lower rank": of_rank(1, generator)[0],
        "no gap": torch.eye(N, M, dtype=torch.float64),
    }[bad]
    found = subspace_geodesic_path(*ends, 2, TIMES)
    others = [0, 2, 3]
    assert found.matrices[1].isnan().all()
    assert not found.gap[1] > 0
    assert not found.cut_locus[1]
    assert not found.loses_rank[1]
    assert torch.allclose(found.matrices[others], expected.matrices[others], rtol=0, atol=1e-10)
    assert torch.equal(found.loses_rank[others], expected.loses_rank[others])


def test_float32_ends_give_a_float64_path(generator):
    Y0, Y1 = of_rank(2, generator).float(), of_rank(2, generator).float()
    assert straight_path(Y0, Y1, TIMES.float()).dtype == torch.float64
    assert subspace_geodesic_path(Y0, Y1, 2, TIMES.float()).matrices.dtype == torch.float64


def test_barrier_of_a_convex_quadratic_along_a_straight_line_is_zero(generator):
    A = normal(generator, N, M)
    path = straight_path(of_rank(2, generator), of_rank(2, generator), TIMES)
    assert torch.equal(barrier((path - A).square().sum((-2, -1)) / 2), torch.zeros(4, dtype=torch.float64))


def test_barrier_of_a_double_well_between_its_minima_is_one(generator):
    well = DoubleWell(curvatures=1 + torch.rand(N * M - 1, generator=generator, dtype=torch.float64))
    Y0, Y1 = well.minima.view(2, 1, N, M)
    for path in (straight_path(Y0, Y1, TIMES), subspace_geodesic_path(Y0, Y1, 1, TIMES).matrices):
        y = path.flatten(2)[0]
        energies = well.energy(y.new_zeros(len(y), 1), y, torch.zeros(len(y), dtype=torch.long))
        assert torch.allclose(
            barrier(energies.unsqueeze(0)), torch.tensor([well.barrier]).double(), atol=1e-12
        )


def test_barrier_is_the_rise_above_the_higher_end_whatever_the_offset_or_the_sense():
    energies = torch.tensor(
        [[1.0, 5, 2, 3], [3, 2, 1, 0], [0, -4, -4, 2], [1, math.nan, 0, 0]], dtype=torch.float64
    )
    for variant in (energies, energies.flip(1), energies - 100):
        assert barrier(variant)[:3].tolist() == [2, 0, 0]
        assert barrier(variant)[3].isnan()


def test_length_of_a_straight_path_is_the_distance_of_its_ends(generator):
    Y0, Y1 = of_rank(2, generator), of_rank(2, generator)
    assert torch.allclose(path_length(straight_path(Y0, Y1, TIMES)), norm(Y1 - Y0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("angle", [0.3, 1.5])
def test_length_of_a_turning_rank_one_matrix_is_that_of_the_inscribed_polygon(angle, generator):
    U, v = frames(generator, N, 2), frames(generator, M, 1)
    Y0, Y1 = (3 * (math.cos(a) * U[:, :1] + math.sin(a) * U[:, 1:]) @ v.mT for a in (0, angle))
    path = subspace_geodesic_path(Y0[None], Y1[None], 1, TIMES).matrices
    assert path_length(path).item() == pytest.approx(3 * 8 * 2 * math.sin(angle / 16), rel=1e-12)


def test_bad_input_is_refused_by_name(generator):
    Y = of_rank(2, generator)
    for path in (straight_path, lambda Y0, Y1, times: subspace_geodesic_path(Y0, Y1, 2, times)):
        with pytest.raises(ConfigError, match=r"one shape, found \(4, 9, 8\) and \(4, 8, 9\)"):
            path(Y, Y.mT, TIMES)
        with pytest.raises(ConfigError, match=r"times must be a vector \(T,\), found shape \(\)"):
            path(Y, Y, torch.tensor(0.5))
    for rank in (0, 8):
        with pytest.raises(ConfigError, match="rank must lie in 1 … min"):
            subspace_geodesic_path(Y, Y, rank, TIMES)
    for shape in ((5,), (4, 1)):
        with pytest.raises(ConfigError, match=r"energies must be \(B, T\) with both ends"):
            barrier(torch.zeros(shape))
