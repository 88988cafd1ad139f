"""Square matrices: splits against explicit bases and derivatives of group actions, SPD distance against geomstats."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from iredinterp.errors import ConfigError
from iredinterp.geometry.symmetric import (
    SYMMETRIC_BLOCKS,
    affine_invariant_distance,
    condition_number_normal,
    condition_number_share,
    split_singular_values,
    split_symmetric,
    symmetric_block_dims,
    tangent_normal_symmetric,
)

# A true null is rejected once in a million draws: no test here fails by chance.
LEVEL = 1e-6


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rotations(generator, count, n):
    return torch.linalg.qr(normal(generator, count, n, n)).Q


def with_eigenvalues(generator, count, eigenvalues):
    """Symmetric matrices with these eigenvalues, symmetric to the last bit."""
    Q = rotations(generator, count, len(eigenvalues))
    Y = Q * torch.as_tensor(eigenvalues, dtype=torch.float64) @ Q.mT
    return (Y + Y.mT) / 2


def with_singular_values(generator, count, singular_values):
    s = torch.as_tensor(singular_values, dtype=torch.float64)
    return rotations(generator, count, len(s)) * s @ rotations(generator, count, len(s)).mT


def positive_definite(generator, count, n):
    return with_eigenvalues(generator, count, np.geomspace(0.1, 5, n))


def skew(generator, n):
    W = normal(generator, n, n)
    return (W - W.mT).numpy()


def derivative(curve, h=1e-5):
    """Central difference at 0 of a curve of matrices, as a batch of one."""
    return torch.as_tensor((curve(h) - curve(-h)) / (2 * h))[None]


def test_blocks_are_orthogonal_projections_onto_explicit_bases(generator):
    n = 4
    Y = with_eigenvalues(generator, 1, [-2.0, 0.0, 1.0, 3.0])
    units = torch.eye(n * n, dtype=torch.float64).reshape(-1, n, n)
    split = split_symmetric(units, Y.expand(n * n, -1, -1))
    Q = np.linalg.eigh(Y[0].numpy())[1]
    outer = [[np.outer(Q[:, i], Q[:, j]) for j in range(n)] for i in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(i)]
    bases = {
        "skew": [(outer[i][j] - outer[j][i]) / math.sqrt(2) for i, j in pairs],
        "isospectral": [(outer[i][j] + outer[j][i]) / math.sqrt(2) for i, j in pairs],
        "spectral": [outer[i][i] for i in range(n)],
    }
    assert tuple(bases) == tuple(split.block_dims) == SYMMETRIC_BLOCKS
    for index, (name, basis) in enumerate(bases.items()):
        basis = np.array(basis).reshape(len(basis), -1)
        projected = getattr(split, name).reshape(n * n, -1)
        np.testing.assert_allclose(projected, basis.T @ basis, rtol=0, atol=1e-12)
        assert split.block_dims[name] == len(basis)
        np.testing.assert_allclose(split.block_squares[:, index], (basis**2).sum(0), rtol=0, atol=1e-12)


def test_turning_eigenvectors_is_isospectral_and_moving_eigenvalues_spectral(generator):
    n = 6
    Y = with_eigenvalues(generator, 1, [-2.0, -1.0, 0.5, 1.0, 2.0, 4.0])
    y, W = Y[0].numpy(), skew(generator, n)
    turning = derivative(lambda t: scipy.linalg.expm(t * W) @ y @ scipy.linalg.expm(-t * W))
    moving = derivative(lambda t: scipy.linalg.expm(t * y))
    leaving = torch.as_tensor(W)[None]
    for direction, index in ((turning, 1), (moving, 2), (leaving, 0)):
        squares = split_symmetric(direction, Y).block_squares[0]
        assert squares[index].item() == pytest.approx(squares.sum().item(), rel=1e-12)
        assert squares.sum() > 1e-3


def test_isotropic_gradients_follow_the_f_and_beta_nulls(generator):
    count, n = 1500, 20
    G = normal(generator, count, n, n)
    Y = with_eigenvalues(generator, 30, np.linspace(0.1, 2, n)).repeat(count // 30, 1, 1)
    found = tangent_normal_symmetric(G, Y)
    law = scipy.stats.f(190, 210)
    assert found.block_dims == symmetric_block_dims(n) == {"skew": 190, "isospectral": 190, "spectral": 20}
    assert found.band == pytest.approx(law.interval(0.95), rel=1e-9)
    assert scipy.stats.kstest(found.ratio, law.cdf).pvalue > LEVEL
    assert scipy.stats.kstest(found.p_value, scipy.stats.uniform.cdf).pvalue > LEVEL
    for index, dim in enumerate((190, 190, 20)):
        null = scipy.stats.beta(dim / 2, (400 - dim) / 2)
        assert scipy.stats.kstest(found.shares[:, index], null.cdf).pvalue > LEVEL


def test_ratio_of_skew_to_symmetric_part_with_and_without_the_matrix_itself(generator):
    G, Y = normal(generator, 5, 4, 4), normal(generator, 5, 4, 4)
    found = tangent_normal_symmetric(G, Y)
    for row in range(5):
        g, y = G[row].numpy(), Y[row].numpy()
        outside, inside, point = (g - g.T) / 2, (g + g.T) / 2, (y + y.T) / 2
        assert found.ratio[row].item() == pytest.approx(np.sum(outside**2) / 6 / (np.sum(inside**2) / 10))
        cosine = np.sum(g * point) / np.linalg.norm(g) / np.linalg.norm(point)
        assert found.radial_cosine[row].item() == pytest.approx(cosine)
        beside = inside - point * np.sum(g * point) / np.sum(point**2)
        expected = np.sum(outside**2) / 6 / (np.sum(beside**2) / 9)
        assert found.ratio_without_radial[row].item() == pytest.approx(expected)
        assert found.distance[row].item() == pytest.approx(np.linalg.norm(y - point) / np.linalg.norm(y))
    assert torch.equal(found.gap, split_symmetric(G, Y).gap)
    assert torch.equal(found.distance, split_symmetric(G, Y).distance)


def test_only_the_skew_part_is_given_where_two_eigenvalues_coincide(generator):
    Y = with_eigenvalues(generator, 3, [-1.0, 1.0, 1.5, 3.0])
    Y[1] = with_eigenvalues(generator, 1, [-1.0, 1.5, 1.5, 3.0])[0]
    G = normal(generator, 3, 4, 4)
    split, found = split_symmetric(G, Y), tangent_normal_symmetric(G, Y)
    np.testing.assert_allclose(split.gap[[0, 2]], 0.5 / math.sqrt(1 + 1 + 2.25 + 9), rtol=1e-12)
    assert split.gap[1].item() == 0
    for values in (split.isospectral, split.spectral, split.block_squares[:, 1:], found.shares[:, 1:]):
        assert values[1].isnan().all()
        assert values[[0, 2]].isfinite().all()
    assert torch.allclose(split.skew, (G - G.mT) / 2)
    assert torch.allclose(found.shares[:, 0], split.skew.square().sum((1, 2)) / G.square().sum((1, 2)))
    assert found.ratio.isfinite().all()
    assert found.defined.all()


def test_orthogonal_factors_leave_singular_values_and_diagonal_ones_change_them(generator):
    n = 5
    Y = with_singular_values(generator, 1, [3.0, 2.0, 1.5, 1.0, 0.0])
    y, first, second = Y[0].numpy(), skew(generator, n), skew(generator, n)
    turning = derivative(lambda t: scipy.linalg.expm(t * first) @ y @ scipy.linalg.expm(t * second))
    U, _, Vh = np.linalg.svd(y)
    moving = torch.as_tensor(U @ np.diag(normal(generator, n).numpy()) @ Vh)[None]
    tangent, across, gap = split_singular_values(turning + moving, Y)
    assert torch.allclose(tangent, turning, rtol=0, atol=1e-8)
    assert torch.allclose(across, moving, rtol=0, atol=1e-8)
    assert gap.item() == pytest.approx(0.5 / math.sqrt(9 + 4 + 2.25 + 1))
    units = torch.eye(n * n, dtype=torch.float64).reshape(-1, n, n)
    tangent, across, _ = split_singular_values(units, Y.expand(n * n, -1, -1))
    for part, dim in ((tangent, n * (n - 1)), (across, n)):
        P = part.reshape(n * n, -1)
        assert torch.allclose(P @ P, P, rtol=0, atol=1e-13)
        assert P.trace().item() == pytest.approx(dim)


def test_condition_number_normal_is_the_gradient_of_its_logarithm(generator):
    Y = with_singular_values(generator, 3, [3.0, 2.0, 1.0, 0.5])
    N = condition_number_normal(Y)
    for row in range(3):
        direction = normal(generator, 4, 4).numpy()
        h = 1e-5
        kappas = [np.linalg.cond(Y[row].numpy() + step * direction) for step in (h, -h)]
        slope = (math.log(kappas[0]) - math.log(kappas[1])) / (2 * h)
        assert np.sum(N[row].numpy() * direction) == pytest.approx(slope, abs=1e-6)
    np.testing.assert_allclose(N.norm(dim=(1, 2)), math.hypot(1 / 3, 1 / 0.5), rtol=1e-12)
    np.testing.assert_allclose(condition_number_share(-3e200 * N, Y), 1, rtol=1e-12)
    tangent = split_singular_values(normal(generator, 3, 4, 4), Y)[0]
    np.testing.assert_allclose(condition_number_share(tangent, Y), 0, rtol=0, atol=1e-25)


def test_condition_number_share_of_isotropic_gradients_follows_its_beta_law(generator):
    n, count = 5, 1500
    Y = with_singular_values(generator, count, [3.0, 2.0, 1.5, 1.0, 0.5])
    share = condition_number_share(normal(generator, count, n, n), Y)
    assert scipy.stats.kstest(share, scipy.stats.beta(1 / 2, (n * n - 1) / 2).cdf).pvalue > LEVEL


@pytest.mark.parametrize(
    "singular_values",
    [[2.0, 2.0, 1.0, 0.5], [2.0, 1.0, 0.5, 0.5], [2.0, 1.0, 0.5, 0.0], [1.0] * 4, [0.0] * 4],
)
def test_condition_number_without_a_derivative_has_no_normal_and_disturbs_no_other(
    singular_values, generator
):
    Y = with_singular_values(generator, 3, [3.0, 2.0, 2.0, 0.5])
    expected = condition_number_normal(Y[[0, 2]])
    Y[1] = with_singular_values(generator, 1, singular_values)[0]
    N = condition_number_normal(Y)
    assert N[1].isnan().all()
    assert torch.allclose(N[[0, 2]], expected, rtol=1e-12)
    # The middle singular values of the others are equal: that matters to the split alone.
    assert (split_singular_values(Y, Y)[2].nan_to_num() == 0)[[0, 2]].all()


def test_distance_of_commuting_matrices_is_that_of_the_logarithms_of_their_eigenvalues(generator):
    Q = rotations(generator, 10, 6)
    a, b = normal(generator, 10, 6).exp(), normal(generator, 10, 6).exp()
    A, B = ((Q * values.unsqueeze(1) @ Q.mT) for values in (a, b))
    distance, spd = affine_invariant_distance(A, B)
    assert spd.all()
    np.testing.assert_allclose(distance, (a.log() - b.log()).norm(dim=1), rtol=1e-9)
    scaled = affine_invariant_distance(A, 3 * A)[0]
    np.testing.assert_allclose(scaled, math.sqrt(6) * math.log(3), rtol=1e-10)
    np.testing.assert_allclose(affine_invariant_distance(A, A)[0], 0, rtol=0, atol=1e-10)


def test_distance_is_that_of_the_generalised_eigenvalues_and_does_not_change_under_congruence(generator):
    A, B = positive_definite(generator, 6, 5), positive_definite(generator, 6, 5)
    distance = affine_invariant_distance(A, B)[0]
    expected = [np.linalg.norm(np.log(scipy.linalg.eigh(b, a)[0])) for a, b in zip(A, B, strict=True)]
    np.testing.assert_allclose(distance, expected, rtol=1e-10)
    W = with_singular_values(generator, 6, [2.0, 1.5, 1.0, 0.7, 0.5])
    moved = affine_invariant_distance(W @ A @ W.mT, W @ B @ W.mT)
    assert moved[1].all()
    np.testing.assert_allclose(moved[0], distance, rtol=1e-9)
    np.testing.assert_allclose(affine_invariant_distance(B, A)[0], distance, rtol=1e-9)


def test_error_of_an_inverse_is_the_error_of_the_matrix_it_inverts(generator):
    X, Y = positive_definite(generator, 6, 5), positive_definite(generator, 6, 5)
    in_y = affine_invariant_distance(Y, torch.linalg.inv(X))[0]
    in_x = affine_invariant_distance(torch.linalg.inv(Y), X)[0]
    np.testing.assert_allclose(in_y, in_x, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "kappa"), [(torch.float64, 1e6), (torch.float32, 100)])
def test_computed_inverse_of_an_ill_conditioned_matrix_still_counts_as_symmetric(dtype, kappa, generator):
    X = with_eigenvalues(generator, 20, np.geomspace(1, kappa, 10)).to(dtype)
    distance, spd = affine_invariant_distance(
        torch.linalg.inv(X), torch.eye(10, dtype=dtype).expand(20, -1, -1)
    )
    assert spd.all()
    expected = np.linalg.norm(np.log(np.geomspace(1, kappa, 10)))
    np.testing.assert_allclose(distance, expected, rtol=1e-4)


def test_distance_is_the_affine_metric_of_geomstats(generator):
    # geomstats 2.8 imports a name that NumPy 2.4 no longer has.
    np.trapz = np.trapezoid
    pytest.importorskip("geomstats")
    from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDMatrices

    A, B = positive_definite(generator, 8, 5), positive_definite(generator, 8, 5)
    expected = SPDAffineMetric(SPDMatrices(5, equip=False)).dist(A.numpy(), B.numpy())
    np.testing.assert_allclose(affine_invariant_distance(A, B)[0], expected, rtol=1e-9)


def test_matrices_that_are_not_spd_are_flagged_and_disturb_no_other(generator):
    bad = [
        torch.full((4, 4), math.nan),
        torch.full((4, 4), math.inf),
        torch.zeros(4, 4),
        with_eigenvalues(generator, 1, [-0.1, 1.0, 2.0, 3.0])[0],
        -torch.eye(4),
        torch.eye(4) + 1e-6 * torch.ones(4, 4).triu(),
    ]
    count = 2 * len(bad) + 2
    A, B = positive_definite(generator, count, 4), positive_definite(generator, count, 4)
    A[1], B[1] = A[1].float().double(), B[1].float().double()
    expected, spd = affine_invariant_distance(A, B)
    assert spd.all()
    for index, matrix in enumerate(bad):
        A[2 + 2 * index], B[3 + 2 * index] = matrix, matrix
    distance, spd = affine_invariant_distance(A, B)
    assert spd.tolist() == [True, True] + [False] * (2 * len(bad))
    assert torch.allclose(distance[:2], expected[:2], rtol=1e-12)
    assert distance[2:].isnan().all()


def test_bad_rows_of_a_split_are_undefined_and_disturb_no_other(generator):
    Y, G = with_eigenvalues(generator, 6, [-0.5, 1.0, 1.5, 3.0]), normal(generator, 6, 4, 4)
    expected, alone = split_symmetric(G, Y), tangent_normal_symmetric(G, Y)
    Y[0, 1, 1], Y[1, 0, 1], Y[2], G[3], G[4, 2, 2] = math.nan, math.inf, 0, 0, math.nan
    split, found = split_symmetric(G, Y), tangent_normal_symmetric(G, Y)
    assert split.gap[:3].isnan().all()
    assert split.block_squares[:3, 1:].isnan().all()
    assert torch.equal(split.skew[:3], expected.skew[:3])
    # Every symmetric matrix has the same tangent space, zero included.
    assert found.defined.tolist() == [False, False, True, False, False, True]
    assert found.ratio[2].item() == pytest.approx(alone.ratio[2].item())
    for name in ("shares", "ratio", "p_value", "radial_cosine", "ratio_without_radial"):
        values = getattr(found, name)
        assert values[[0, 1, 3, 4]].isnan().all()
        assert torch.allclose(values[5], getattr(alone, name)[5], rtol=1e-12)
    assert found.ratio_without_radial[2].isnan()
    tangent, across, gap = split_singular_values(G, Y)
    assert gap[:3].isnan().all()
    assert tangent[:3].isnan().all()
    assert across[:3].isnan().all()
    assert torch.allclose((tangent + across)[5], G[5], rtol=1e-12)
    assert condition_number_share(G, Y)[:5].isnan().all()


def test_single_precision_gives_the_result_of_double_precision(generator):
    A, B, G = (
        positive_definite(generator, 4, 4),
        positive_definite(generator, 4, 4),
        normal(generator, 4, 4, 4),
    )
    distance, spd = affine_invariant_distance(A.float(), B.float())
    assert spd.all()
    assert distance.dtype == torch.float64
    np.testing.assert_allclose(distance, affine_invariant_distance(A, B)[0], rtol=1e-4)
    single, double = tangent_normal_symmetric(G.float(), A.float()), tangent_normal_symmetric(G, A)
    np.testing.assert_allclose(single.shares, double.shares, rtol=0, atol=1e-4)
    identity = torch.eye(4).expand(4, -1, -1) + 1e-8
    assert (split_symmetric(G.float(), identity).gap == 0).all()


@pytest.mark.parametrize("function", [split_symmetric, tangent_normal_symmetric, split_singular_values])
@pytest.mark.parametrize(
    "shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 3), (1, 3, 3)), ((3, 3), (3, 3)), ((2, 1, 1),) * 2]
)
def test_what_is_not_a_batch_of_square_matrices_is_refused(function, shapes):
    message = r"expected square matrices \(B, n, n\) with n ≥ 2, of one shape, found \("
    for refusing in (function, condition_number_share, affine_invariant_distance):
        with pytest.raises(ConfigError, match=message):
            refusing(*(torch.ones(shape, dtype=torch.float64) for shape in shapes))
    with pytest.raises(ConfigError, match=message):
        condition_number_normal(torch.ones(2, 3, 4))
