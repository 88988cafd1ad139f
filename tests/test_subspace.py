"""Grassmannian kernels against planted angles, closed forms, SciPy's matrix functions and the laws of geodesics."""

import math

import pytest
import scipy.linalg
import torch

from iredinterp.errors import ConfigError
from iredinterp.geometry.subspace import (
    GAP_TOLERANCE,
    GrassmannPoints,
    chordal_distance,
    chordal_mean,
    grassmann_distance,
    grassmann_exp,
    grassmann_geodesic,
    grassmann_log,
    haar_subspaces,
    parallel_transport,
    projection_distance,
    projector,
    subspace_basis,
)
from iredinterp.linalg import principal_angles

RIGHT_ANGLE = math.pi / 2
# n, k: lines, planes, k = n/2, k > n/2, hyperplanes.
SHAPES = [(6, 1), (20, 2), (20, 5), (20, 10), (20, 13), (20, 19)]
PLANTED = [
    [0.0],
    [0.0, 0.0, 1e-12, 1e-9, 1e-6],
    [0.0, 1e-8, 1e-8, 0.7, RIGHT_ANGLE],
    [1e-8, 1e-8, 1e-8],
    [0.3, 0.3, 1.2, RIGHT_ANGLE - 1e-7],
    [1.0, RIGHT_ANGLE - 1e-9, RIGHT_ANGLE],
    [RIGHT_ANGLE, RIGHT_ANGLE],
]


def close(a, b, atol):
    return torch.allclose(a, b.to(a), rtol=0, atol=atol)


def orthonormal(U, atol=3e-14):
    return close(U.mT @ U, torch.eye(U.shape[-1]).expand(*U.shape[:-2], -1, -1), atol)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def horizontal(U, generator):
    Z = normal(generator, *U.shape)
    return Z - U @ (U.mT @ Z)


def planes_at(angles, n, generator):
    """Two k-planes in R^n with these principal angles, in random bases of a random position; k ≤ n.

    Where k > n/2 all but n − k angles must be zero.
    """
    angles = torch.tensor(angles, dtype=torch.float64)
    k = len(angles)
    turned = angles.count_nonzero()
    ambient = haar_subspaces(1, n, k + turned, generator)[0]
    # cos(π/2) is 6e-17 in floating point; the truth is 0.
    cosines = torch.where(angles == RIGHT_ANGLE, 0, angles.cos())
    towards = torch.zeros(n, k, dtype=torch.float64)
    towards[:, angles > 0] = ambient[:, k:]
    U, V = ambient[:, :k], ambient[:, :k] * cosines + towards * angles.sin()
    return tuple(one @ haar_subspaces(1, k, k, generator)[0] for one in (U, V))


@pytest.fixture(params=SHAPES, ids=lambda shape: f"Gr{shape}")
def pairs(request, generator):
    """Independent uniformly random pairs."""
    n, k = request.param
    return haar_subspaces(40, n, k, generator), haar_subspaces(40, n, k, generator)


# Distances


@pytest.mark.parametrize("angles", PLANTED)
def test_planted_angles_give_their_norm_and_the_norm_and_maximum_of_their_sines(angles, generator):
    U, V = planes_at(angles, 13, generator)
    angles = torch.tensor(angles, dtype=torch.float64)
    assert close(grassmann_distance(U, V), angles.norm(), 3e-15)
    assert close(chordal_distance(U, V), angles.sin().norm(), 3e-15)
    assert close(projection_distance(U, V), angles.sin().amax(), 3e-15)


@pytest.mark.parametrize("distance", [grassmann_distance, chordal_distance, projection_distance])
def test_distances_are_symmetric_and_blind_to_the_choice_of_basis(pairs, distance, generator):
    U, V = pairs
    rotation = haar_subspaces(40, U.shape[-1], U.shape[-1], generator)
    assert close(distance(U, V), distance(V, U), 1e-14)
    assert close(distance(U @ rotation, V), distance(U, V), 1e-14)
    assert distance(U, U @ rotation).max() < 1e-14


@pytest.mark.parametrize("distance", [grassmann_distance, chordal_distance, projection_distance])
def test_orthogonal_complements_are_as_far_apart(pairs, distance):
    U, V = pairs
    n, k = U.shape[-2:]
    complements = [subspace_basis(torch.eye(n) - projector(one), n - k) for one in pairs]
    assert close(distance(*complements), distance(U, V), 3e-14)


def test_chordal_and_projection_distances_are_norms_of_the_difference_of_projectors(pairs):
    difference = projector(pairs[0]) - projector(pairs[1])
    assert close(chordal_distance(*pairs), torch.linalg.matrix_norm(difference) / math.sqrt(2), 1e-14)
    assert close(projection_distance(*pairs), torch.linalg.matrix_norm(difference, 2), 1e-14)


def test_orthogonal_axes_are_a_right_angle_apart_by_every_way_of_measuring():
    axes = torch.eye(4, dtype=torch.float64)
    U, V = axes[:, :1], axes[:, 1:2]
    assert grassmann_distance(U, V).item() == RIGHT_ANGLE
    assert chordal_distance(U, V).item() == projection_distance(U, V).item() == 1
    assert principal_angles(U, V).item() == RIGHT_ANGLE
    log = grassmann_log(U, V)
    assert log.cut_locus
    assert log.direction.norm().item() == pytest.approx(RIGHT_ANGLE, abs=1e-15)
    assert grassmann_distance(grassmann_exp(U, log.direction), V) < 1e-15
    middle = grassmann_geodesic(U, V, [0.5])[0]
    assert grassmann_distance(middle, U).item() == pytest.approx(RIGHT_ANGLE / 2, abs=1e-15)
    assert grassmann_distance(middle, V).item() == pytest.approx(RIGHT_ANGLE / 2, abs=1e-15)


# Logarithm, exponential, geodesics


@pytest.mark.parametrize("angles", PLANTED)
def test_logarithm_of_planted_angles_has_these_singular_values_and_leads_there(angles, generator):
    U, V = planes_at(angles, 13, generator)
    angles = torch.tensor(angles, dtype=torch.float64)
    log = grassmann_log(U, V)
    assert close(log.angles, angles, 5e-15)
    assert close(log.direction.norm(), angles.norm(), 5e-15)
    assert log.cut_locus.item() == (angles.max() >= RIGHT_ANGLE - 1e-8).item()
    assert grassmann_log(U, V, tolerance=1e-6).cut_locus.item() == (angles.max() > 1.5).item()
    assert grassmann_distance(grassmann_exp(U, log.direction), V) < 3e-14


@pytest.mark.parametrize("angles", [[0.0] * 7 + [1e-8, 0.4], [0.0] * 8 + [RIGHT_ANGLE], [0.0] * 9])
def test_subspaces_larger_than_half_meet_and_their_other_angles_are_found(angles, generator):
    U, V = planes_at(angles, 11, generator)
    assert close(grassmann_log(U, V).angles, torch.tensor(angles, dtype=torch.float64), 5e-15)
    assert grassmann_distance(U, V).item() == pytest.approx(math.hypot(*angles), abs=1e-14)
    assert grassmann_distance(grassmann_geodesic(U, V, [1.0])[0], V) < 3e-14


def test_logarithm_is_horizontal_as_long_as_the_distance_and_undone_by_the_exponential(pairs):
    U, V = pairs
    log = grassmann_log(U, V)
    assert (U.mT @ log.direction).abs().max() < 1e-14
    assert close(log.direction.flatten(1).norm(dim=1), grassmann_distance(U, V), 1e-14)
    assert close(log.angles, principal_angles(U, V), 1e-14)
    assert not log.cut_locus.any()
    reached = grassmann_exp(U, log.direction)
    assert orthonormal(reached)
    assert grassmann_distance(reached, V).max() < 1e-13


def test_exponential_is_undone_by_the_logarithm_below_a_right_angle(pairs, generator):
    U, _ = pairs
    D = horizontal(U, generator)
    D = D * 1.5 / torch.linalg.matrix_norm(D, 2)[:, None, None]
    assert close(grassmann_log(U, grassmann_exp(U, D)).direction, D, 1e-12)


def test_exponential_is_the_one_parameter_group_of_rotations(pairs, generator):
    U = pairs[0][:5]
    D = horizontal(U, generator)
    for u, d, reached in zip(U, D, grassmann_exp(U, D), strict=True):
        rotation = scipy.linalg.expm((d @ u.T - u @ d.T).numpy())
        assert close(reached, torch.from_numpy(rotation) @ u, 1e-12)


def test_geodesic_runs_from_one_to_the_other_at_constant_speed(pairs):
    U, V = pairs
    times = torch.linspace(-0.3, 1, 7, dtype=torch.float64)
    path = grassmann_geodesic(U, V, times)
    assert path.shape == (40, 7, *U.shape[1:])
    assert orthonormal(path)
    length = grassmann_distance(U, V)
    # Shortest as long as no angle swept exceeds π/2, which holds for all |t| ≤ 1.
    assert close(grassmann_distance(U[:, None], path), times.abs() * length[:, None], 1e-13)
    steps = grassmann_distance(path[:, 1:], path[:, :-1])
    assert close(steps, (times.diff() * length[:, None]), 1e-13)
    assert close(grassmann_geodesic(U, V, [0.0])[:, 0], U, 1e-14)


def test_kernels_broadcast_over_leading_axes(generator):
    U, V = haar_subspaces(1, 9, 3, generator)[0], haar_subspaces(6, 9, 3, generator).reshape(2, 3, 9, 3)
    D = grassmann_log(U, V).direction
    assert D.shape == V.shape
    assert grassmann_geodesic(U, V, [0.2, 0.8]).shape == (2, 3, 2, 9, 3)
    assert close(D[1, 2], grassmann_log(U, V[1, 2]).direction, 1e-14)
    assert close(parallel_transport(U, D, D)[1, 2], parallel_transport(U, D[1, 2], D[1, 2]), 1e-14)


# Parallel transport


def test_transport_keeps_inner_products_and_horizontality(pairs, generator):
    U, V = pairs
    along = grassmann_log(U, V).direction
    first, second = horizontal(U, generator), horizontal(U, generator)
    for time in (0.0, 0.4, 1.0, 3.0):
        moved = [parallel_transport(U, along, vector, time) for vector in (first, second)]
        end = grassmann_exp(U, time * along)
        assert (end.mT @ moved[0]).abs().max() < 1e-12
        assert close((moved[0] * moved[1]).sum((1, 2)), (first * second).sum((1, 2)), 1e-11)


def test_velocity_of_a_geodesic_is_transported_into_its_velocity(pairs):
    U, V = pairs
    along = grassmann_log(U, V).direction
    end = grassmann_exp(U, along)
    assert close(parallel_transport(U, along, along), -grassmann_log(end, U).direction, 1e-12)


def test_transport_is_the_rotation_along_the_geodesic(pairs, generator):
    U, V = (one[:5] for one in pairs)
    along, vector = grassmann_log(U, V).direction, horizontal(U, generator)
    for u, d, v, moved in zip(U, along, vector, parallel_transport(U, along, vector), strict=True):
        rotation = scipy.linalg.expm((d @ u.T - u @ d.T).numpy())
        assert close(moved, torch.from_numpy(rotation) @ v, 1e-12)


@pytest.mark.parametrize("angles", PLANTED)
def test_transport_is_an_isometry_at_zero_and_right_angles(angles, generator):
    U, V = planes_at(angles, 13, generator)
    vector = horizontal(U, generator)
    moved = parallel_transport(U, grassmann_log(U, V).direction, vector)
    assert close(moved.norm(), vector.norm(), 1e-13)
    assert (V.mT @ moved).abs().max() < 1e-13


# Means


def test_chordal_mean_minimises_the_sum_of_squared_chordal_distances(generator):
    U = haar_subspaces(7, 9, 3, generator)
    weights = torch.rand(7, generator=generator, dtype=torch.float64)
    mean = chordal_mean(U, weights).U

    def cost(points):
        return (weights * chordal_distance(points.unsqueeze(-3), U).square()).sum(-1)

    around = grassmann_exp(mean, 0.05 * horizontal(mean.expand(200, 9, 3), generator))
    assert orthonormal(mean)
    assert (cost(around) > cost(mean)).all()


def test_chordal_mean_of_two_subspaces_is_the_middle_of_their_geodesic(pairs):
    U, V = pairs
    mean = chordal_mean(torch.stack(pairs, dim=1))
    middle = grassmann_geodesic(U, V, [0.5])[:, 0]
    # Eigenvalues of the mean projector are (1 ± cos θ)/2: the gap is the cosine of the largest angle.
    smallest = principal_angles(U, V)[:, -1].cos()
    assert close(mean.eigengap, smallest, 1e-14)
    assert (grassmann_distance(mean.U, middle) * smallest).max() < 1e-13


def test_chordal_mean_of_opposite_lines_has_no_eigengap_and_of_equal_ones_a_full_one():
    axes = torch.eye(4, dtype=torch.float64)
    opposite = chordal_mean(torch.stack([axes[:, :1], axes[:, 1:2]]))
    assert opposite.eigengap.abs() < 1e-15
    equal = chordal_mean(axes[:, :2].expand(5, 4, 2))
    assert close(equal.eigengap, torch.ones(()), 1e-15)
    assert grassmann_distance(equal.U, axes[:, :2]) < 1e-15


def test_a_weight_of_zero_leaves_a_subspace_out_and_the_scale_of_weights_does_not_matter(generator):
    U = haar_subspaces(5, 8, 2, generator)
    weights = torch.tensor([3.0, 0.0, 1.0, 2.0, 0.0])
    kept = [0, 2, 3]
    left_out, direct = chordal_mean(U, weights), chordal_mean(U[kept], weights[kept].double() / 10)
    assert close(projector(left_out.U), projector(direct.U), 1e-13)
    assert close(left_out.eigengap, direct.eigengap, 1e-14)
    assert chordal_mean(U, torch.zeros(5)).eigengap.isnan()


def test_negative_weights_are_refused(generator):
    with pytest.raises(ConfigError, match=r"weights must not be negative, found -0\.5: .*set it to 0"):
        chordal_mean(haar_subspaces(2, 5, 2, generator), torch.tensor([1.0, -0.5]))


# Points


def test_a_planted_matrix_gives_back_its_subspace_and_its_gap(generator):
    U, V = haar_subspaces(10, 9, 4, generator), haar_subspaces(10, 6, 4, generator)
    spectrum = torch.tensor([5.0, 4.0, 2.0, 0.5], dtype=torch.float64)
    Y = U @ spectrum.diag() @ V.mT
    for rank in (1, 2, 3):
        expected = (spectrum[rank - 1] - spectrum[rank]) / spectrum.norm()
        column, row = GrassmannPoints.from_matrix(Y, rank), GrassmannPoints.from_matrix(Y.mT, rank)
        for points, truth in ((column, U), (row, V)):
            assert close(points.gap, expected.expand(10), 1e-14)
            assert points.defined.all()
            assert orthonormal(points.U)
            assert grassmann_distance(points.U, truth[..., :rank]).max() < 1e-13
    assert close(column.projectors(), U[..., :3] @ U[..., :3].mT, 1e-13)
    assert close(GrassmannPoints.from_matrix(1e-300 * Y, 3).gap, column.gap, 1e-14)


def test_a_matrix_of_k_columns_spans_a_subspace_whose_gap_is_its_smallest_singular_value(generator):
    Y = normal(generator, 5, 7, 3)
    singular_values = torch.linalg.svdvals(Y)
    points = GrassmannPoints.from_matrix(Y, 3)
    assert close(points.gap, singular_values[:, -1] / singular_values.norm(dim=1), 1e-14)
    assert close(points.U @ (points.U.mT @ Y), Y, 1e-13)


def test_matrices_without_a_subspace_say_so_and_do_not_disturb_the_others(generator):
    Y = normal(generator, 7, 6, 5)
    Y[1] = 0
    Y[2, 3, 3] = torch.nan
    Y[3, 0, 1] = torch.inf
    Y[4] = Y[4, :, :1] @ Y[4, :1]  # rank 1
    Y[5] = torch.eye(6, 5)  # no gap
    points = GrassmannPoints.from_matrix(Y, 2)
    assert points.defined.tolist() == [True, False, False, False, False, False, True]
    assert points.gap.isnan().tolist() == [False, True, True, True, False, False, False]
    assert points.gap[4:6].abs().max() < 1e-15
    assert orthonormal(points.U)
    alone = GrassmannPoints.from_matrix(Y[[0, 6]], 2)
    assert torch.equal(points.U[[0, 6]], alone.U)


def test_the_tolerance_is_the_smallest_gap_that_counts(generator):
    rotation = haar_subspaces(1, 4, 4, generator)
    Y = rotation @ torch.tensor([1.0, 1.0 - 1e-8, 0.5, 0.1], dtype=torch.float64).diag()
    assert not GrassmannPoints.from_matrix(Y, 1).defined
    assert GrassmannPoints.from_matrix(Y, 1, tolerance=1e-12).defined
    assert GrassmannPoints.from_matrix(Y, 2).defined


def test_rounding_to_float32_turns_a_subspace_with_a_defined_gap_little(generator):
    """The bound that the default tolerance states."""
    rotation, W = (haar_subspaces(50, 8, 8, generator) for _ in range(2))
    spectrum = torch.tensor([1.0, 0.9, 0.5 + 3 * GAP_TOLERANCE, 0.5, 0.2, 0.1, 0.1, 0.0], dtype=torch.float64)
    Y = rotation @ spectrum.diag() @ W.mT
    exact, rounded = (GrassmannPoints.from_matrix(matrix, 3) for matrix in (Y, Y.float()))
    assert rounded.U.dtype == torch.float64
    assert exact.defined.all()
    moved = projection_distance(exact.U, rounded.U)
    # Not zero either: a subspace this close to undefined is seen to move.
    assert moved.median() > 1e-6
    assert moved.max() < 0.06


@pytest.mark.parametrize("rank", [-1, 0, 6, 7])
def test_ranks_whose_grassmannian_is_a_point_are_refused(rank, generator):
    with pytest.raises(
        ConfigError, match=rf"1 … min\(n − 1, m\) = 5 for 6×8 matrices, found {rank}: .*single"
    ):
        GrassmannPoints.from_matrix(normal(generator, 2, 6, 8), rank)
    with pytest.raises(ConfigError, match=r"= 3 for 6×3 matrices, found 4"):
        GrassmannPoints.from_matrix(normal(generator, 2, 6, 3), 4)


# Bad and imprecise input


def test_one_bad_item_becomes_nan_and_the_others_stay(generator):
    U, V = haar_subspaces(4, 8, 3, generator), haar_subspaces(4, 8, 3, generator)
    D = grassmann_log(U, V).direction
    for bad in (torch.nan, torch.inf):
        spoiled, spoiled_direction = V.clone(), D.clone()
        spoiled[2, 1, 1] = spoiled_direction[2, 1, 1] = bad
        for function, clean, dirty in (
            (grassmann_distance, (U, V), (U, spoiled)),
            (grassmann_distance, (V, U), (spoiled, U)),
            (chordal_distance, (U, V), (U, spoiled)),
            (projection_distance, (V, U), (spoiled, U)),
            (lambda *pair: grassmann_log(*pair).direction, (U, V), (U, spoiled)),
            (lambda *pair: grassmann_log(*pair).angles, (V, U), (spoiled, U)),
            (lambda *pair: grassmann_geodesic(*pair, [0.3]), (U, V), (U, spoiled)),
            (grassmann_exp, (U, D), (U, spoiled_direction)),
            (parallel_transport, (U, D, D), (U, spoiled_direction, D)),
            (lambda one: chordal_mean(one.unsqueeze(1)).U, (V,), (spoiled,)),
            (lambda one: chordal_mean(one.unsqueeze(1)).eigengap, (V,), (spoiled,)),
            (lambda one: subspace_basis(one @ one.mT, 3), (V,), (spoiled,)),
        ):
            expected, found = function(*clean), function(*dirty)
            assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])
            assert found[2].isnan().all()


def test_float32_bases_are_computed_in_float64_and_are_right_to_their_own_rounding(pairs):
    U, V = pairs
    single = U.float(), V.float()
    D = grassmann_log(U, V).direction
    assert close(grassmann_distance(*single), grassmann_distance(U, V), 1e-5)
    assert close(chordal_distance(*single), chordal_distance(U, V), 1e-5)
    assert grassmann_distance(single[0], single[0]).max() < 3e-6
    for result in (
        grassmann_log(*single).direction,
        grassmann_exp(single[0], D.float()),
        grassmann_geodesic(*single, [0.5]),
        parallel_transport(single[0], D.float(), D.float()),
        chordal_mean(single[0]).U,
        projector(single[0]),
    ):
        assert result.dtype == torch.float64


def test_a_right_angle_survives_float32(generator):
    U, V = (one.float() for one in planes_at([0.3, RIGHT_ANGLE, RIGHT_ANGLE], 20, generator))
    assert grassmann_distance(U, V).item() == pytest.approx(
        math.hypot(0.3, RIGHT_ANGLE, RIGHT_ANGLE), abs=1e-6
    )
    assert grassmann_log(U, V, tolerance=1e-6).cut_locus


@pytest.mark.parametrize(
    "function",
    [grassmann_distance, chordal_distance, projection_distance, grassmann_log, grassmann_exp],
)
def test_subspaces_of_different_shapes_are_refused(function, generator):
    U = haar_subspaces(2, 7, 3, generator)
    with pytest.raises(ConfigError, match=r"same n and k, found \(7, 3\) and \(7, 2\): .*principal_angles"):
        function(U, U[..., :2])


def test_haar_subspaces_have_the_mean_squared_cosine_of_the_uniform_law(generator):
    n, k, count = 12, 3, 4000
    U = haar_subspaces(count, n, k, generator)
    assert orthonormal(U)
    inside = U[:, :5].square().sum((1, 2))
    assert inside.mean().item() == pytest.approx(5 * k / n, abs=6 * inside.std().item() / math.sqrt(count))


def test_basis_of_a_projector_spans_its_range(pairs):
    for U in pairs:
        assert grassmann_distance(subspace_basis(projector(U), U.shape[-1]), U).max() < 1e-13
