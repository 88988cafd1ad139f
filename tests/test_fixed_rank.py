"""Tangent and normal space of fixed-rank matrices against Kronecker projectors, differences and exact nulls."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from iredinterp.bases import beta_band
from iredinterp.errors import ConfigError
from iredinterp.geometry.fixed_rank import BLOCKS, FixedRankPoint, tangent_normal
from iredinterp.ired.schedule import cosine_schedule

SHAPES = [(5, 5, 1), (5, 5, 4), (4, 7, 2), (7, 4, 3)]
# A true null is rejected once in a million draws: no test here fails by chance.
LEVEL = 1e-6


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def planted(generator, count, n, m, singular_values):
    """Matrices with these singular values, in random positions."""
    k = len(singular_values)
    U, V = (torch.linalg.qr(normal(generator, count, size, k)).Q for size in (n, m))
    return U * torch.as_tensor(singular_values, dtype=torch.float64) @ V.mT


def generic(generator, count, n, m):
    """Matrices of full rank whose singular values are well apart."""
    return planted(generator, count, n, m, np.linspace(3, 1, min(n, m)))


def kronecker_projectors(Y, rank):
    """The four block projectors on row-major flattened matrices at one Y, by NumPy."""
    U, _, Vh = np.linalg.svd(Y)
    P, Q = U[:, :rank] @ U[:, :rank].T, Vh[:rank].T @ Vh[:rank]
    outside_P, outside_Q = np.eye(len(P)) - P, np.eye(len(Q)) - Q
    pairs = {
        "core": (P, Q),
        "column": (outside_P, Q),
        "row": (P, outside_Q),
        "normal": (outside_P, outside_Q),
    }
    return {name: np.kron(*pair) for name, pair in pairs.items()}


def truncate(Y, rank):
    """Nearest matrix of the rank, by NumPy."""
    U, s, Vh = np.linalg.svd(Y, full_matrices=False)
    return (U[..., :rank] * s[..., None, :rank]) @ Vh[..., :rank, :]


@pytest.mark.parametrize(("n", "m", "rank"), SHAPES)
def test_blocks_are_the_kronecker_projectors_and_their_traces_the_dimensions(n, m, rank, generator):
    Y, Z = generic(generator, 3, n, m), normal(generator, 3, n, m)
    H = normal(generator, 3, n * m, n * m)
    point = FixedRankPoint.from_matrix(Y, rank)
    for row in range(3):
        projectors = kronecker_projectors(Y[row].numpy(), rank)
        flat = Z[row].numpy().reshape(-1)
        for index, name in enumerate(BLOCKS):
            P = projectors[name]
            part = point.block(name, Z)[row].numpy()
            np.testing.assert_allclose(part.reshape(-1), P @ flat, rtol=0, atol=1e-13)
            assert np.trace(P) == pytest.approx(point.block_dims[name])
            assert point.block_squares(Z)[row, index].item() == pytest.approx(flat @ P @ flat, abs=1e-12)
            traces = point.block_traces(H)
            assert traces[row, index].item() == pytest.approx(np.trace(P @ H[row].numpy()), abs=1e-11)
        tangent = projectors["core"] + projectors["column"] + projectors["row"]
        np.testing.assert_allclose(tangent @ tangent, tangent, rtol=0, atol=1e-13)
        assert np.trace(tangent) == pytest.approx(rank * (n + m - rank))
        for basis, P in ((point.tangent_basis(), tangent), (point.normal_basis(), projectors["normal"])):
            np.testing.assert_allclose(basis[row] @ basis[row].mT, P, rtol=0, atol=1e-13)
        for found in (point.project_tangent(Z), point.riemannian_gradient(Z), Z - point.project_normal(Z)):
            np.testing.assert_allclose(found[row].reshape(-1), tangent @ flat, rtol=0, atol=1e-13)
    assert point.dim_tangent == point.tangent_basis().shape[-1] == rank * (n + m - rank)
    assert point.dim_normal == point.normal_basis().shape[-1] == (n - rank) * (m - rank)
    assert torch.allclose(point.block_squares(Z).sum(-1), Z.square().sum((-2, -1)), rtol=1e-13)


def test_point_is_the_truncated_svd_with_its_gap_and_distance(generator):
    Y = planted(generator, 4, 6, 5, [4.0, 2.0, 1.0, 0.5, 0.0])
    for matrices, tolerance in ((Y, 1e-14), (Y.float(), 1e-6)):
        point = FixedRankPoint.from_matrix(matrices, 2)
        norm = math.sqrt(16 + 4 + 1 + 0.25)
        assert point.matrix().dtype == torch.float64
        np.testing.assert_allclose(point.matrix(), truncate(Y.numpy(), 2), rtol=0, atol=10 * tolerance)
        np.testing.assert_allclose(point.s, [[4, 2]] * 4, rtol=tolerance)
        np.testing.assert_allclose(point.gap, 1 / norm, rtol=10 * tolerance)
        np.testing.assert_allclose(point.distance, math.sqrt(1.25) / norm, rtol=10 * tolerance)
        assert point.defined.all()


@pytest.mark.parametrize("name", BLOCKS)
def test_small_block_next_to_a_large_one_keeps_its_digits(name, generator):
    point = FixedRankPoint.from_matrix(generic(generator, 8, 9, 7), 3)
    Z = normal(generator, 8, 9, 7)
    small = 1e-9 * point.block(name, Z)
    squares = point.block_squares(Z - point.block(name, Z) + small)[:, BLOCKS.index(name)]
    # Differences of squares would be left with nothing: 1e-18 is below the rounding of 1.
    assert torch.allclose(squares, small.square().sum((-2, -1)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 5, 10, 19])
def test_isotropic_gradients_follow_the_f_and_beta_nulls(rank, generator):
    count, n = 1500, 20
    G, Y = normal(generator, count, n, n), normal(generator, 30, n, n).repeat(count // 30, 1, 1)
    found = tangent_normal(G, Y, rank)
    dim_tangent, dim_normal = rank * (2 * n - rank), (n - rank) ** 2
    law = scipy.stats.f(dim_normal, dim_tangent)
    assert scipy.stats.kstest(found.ratio, law.cdf).pvalue > LEVEL
    assert scipy.stats.kstest(found.p_value, scipy.stats.uniform.cdf).pvalue > LEVEL
    assert found.band == pytest.approx(law.interval(0.95), rel=1e-9)
    p_values = 2 * np.minimum(law.cdf(found.ratio), law.sf(found.ratio))
    np.testing.assert_allclose(found.p_value, p_values, rtol=1e-9)
    np.testing.assert_allclose(found.shares.sum(-1), 1, rtol=1e-13)
    for index, (name, dim) in enumerate(found.block_dims.items()):
        share = found.shares[:, index]
        assert BLOCKS[index] == name
        assert scipy.stats.kstest(share, scipy.stats.beta(dim / 2, (n * n - dim) / 2).cdf).pvalue > LEVEL
        low, high = beta_band(dim, n * n)
        inside = int(((low <= share) & (share <= high)).sum())
        assert scipy.stats.binomtest(inside, count, 0.95).pvalue > LEVEL


def test_ratio_and_its_version_without_the_radial_direction_are_those_of_explicit_projections(generator):
    n, m, rank = 5, 6, 2
    Y, G = generic(generator, 4, n, m), normal(generator, 4, n, m)
    found = tangent_normal(G, Y, rank)
    for row in range(4):
        projectors = kronecker_projectors(Y[row].numpy(), rank)
        radial = truncate(Y[row].numpy(), rank).reshape(-1)
        radial /= np.linalg.norm(radial)
        flat = G[row].numpy().reshape(-1)
        outside = np.sum((projectors["normal"] @ flat) ** 2) / 12
        tangent = flat - projectors["normal"] @ flat
        assert found.ratio[row].item() == pytest.approx(outside / (tangent @ tangent / 18))
        tangent -= radial * (radial @ flat)
        assert found.ratio_without_radial[row].item() == pytest.approx(outside / (tangent @ tangent / 17))
        cosine = radial @ flat / np.linalg.norm(flat)
        assert found.radial_cosine[row].item() == pytest.approx(cosine)
    point = FixedRankPoint.from_matrix(Y, rank)
    assert torch.equal(found.gap, point.gap)
    assert torch.equal(found.distance, point.distance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_along_the_matrix_itself_is_tangent_and_nothing_without_its_radial_part(dtype, generator):
    Y = planted(generator, 5, 7, 6, [3.0, 2.0, 1.0]).to(dtype)
    found = tangent_normal(-4 * Y, Y, 3)
    tolerance = 100 * torch.finfo(dtype).eps
    np.testing.assert_allclose(found.radial_cosine, -1, rtol=tolerance)
    assert (found.ratio < tolerance**2).all()
    assert (found.p_value < 1e-12).all()
    assert found.ratio_without_radial.isnan().all()
    noise = normal(generator, 5, 7, 6)
    plain, leaning = tangent_normal(noise, Y, 3), tangent_normal(noise - 4 * Y.double(), Y, 3)
    assert torch.allclose(leaning.ratio_without_radial, plain.ratio_without_radial, rtol=tolerance)
    assert (leaning.ratio < plain.ratio).all()


def test_purely_normal_gradient_has_all_its_share_there_and_a_vanishing_p_value(generator):
    Y = planted(generator, 3, 6, 6, [2.0, 1.0])
    G = FixedRankPoint.from_matrix(Y, 2).project_normal(normal(generator, 3, 6, 6))
    found = tangent_normal(G, Y, 2)
    np.testing.assert_allclose(found.shares, [[0, 0, 0, 1]] * 3, rtol=0, atol=1e-14)
    assert (found.ratio > 1e20).all()
    assert (found.p_value < 1e-20).all()
    corner = torch.zeros(1, 3, 3, dtype=torch.float64)
    corner[0, 2, 2] = 1
    exact = tangent_normal(corner, torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]]), 1)
    assert (exact.ratio.item(), exact.p_value.item()) == (math.inf, 0)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_size_of_gradient_and_matrix_does_not_matter(scale, generator):
    G, Y = normal(generator, 3, 6, 5), generic(generator, 3, 6, 5)
    plain, scaled = tangent_normal(G, Y, 2), tangent_normal(scale * G, Y / scale, 2)
    for name in ("shares", "ratio", "p_value", "radial_cosine", "ratio_without_radial", "gap", "distance"):
        assert torch.allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-10)


def smooth_function(generator, n, m):
    """F(Y) = Σ ln cosh(a_k·vec Y + b_k), its gradient and Hessian at one Y, by NumPy."""
    A, b = (
        normal(generator, 3 * n * m, n * m).numpy() / math.sqrt(n * m),
        normal(generator, 3 * n * m).numpy(),
    )

    def value(Y):
        return np.sum(np.logaddexp(z := A @ Y.reshape(-1) + b, -z) - math.log(2))

    def gradient(Y):
        return (A.T @ np.tanh(A @ Y.reshape(-1) + b)).reshape(n, m)

    def hessian(Y):
        return A.T @ ((1 - np.tanh(A @ Y.reshape(-1) + b) ** 2)[:, None] * A)

    return value, gradient, hessian


@pytest.mark.parametrize(("n", "m", "rank"), [(5, 5, 1), (5, 6, 3), (6, 4, 2)])
def test_riemannian_hessian_is_the_second_difference_along_the_truncated_svd(n, m, rank, generator):
    Y = planted(generator, 1, n, m, np.linspace(2, 1, rank))[0].numpy()
    value, gradient, hessian = smooth_function(generator, n, m)
    point = FixedRankPoint.from_matrix(torch.as_tensor(Y)[None], rank)
    G, H = (torch.as_tensor(derivative(Y))[None] for derivative in (gradient, hessian))
    curvature, projected = point.riemannian_hessian(H, G)[0], point.projected_hessian(H)[0]
    bends = []
    for _ in range(4):
        coordinates = torch.nn.functional.normalize(normal(generator, point.dim_tangent), dim=0)
        xi = (point.tangent_basis()[0] @ coordinates).reshape(n, m).numpy()

        def second_difference(h, xi=xi):
            steps = [value(truncate(Y + sign * h * xi, rank)) for sign in (1, 0, -1)]
            return (steps[0] - 2 * steps[1] + steps[2]) / h**2

        # Richardson: the error falls from h² to h⁴.
        expected = (4 * second_difference(5e-3) - second_difference(1e-2)) / 3
        assert (coordinates @ curvature @ coordinates).item() == pytest.approx(expected, abs=1e-5)
        bends.append(abs(expected - (coordinates @ projected @ coordinates).item()))
    assert max(bends) > 1e-4


@pytest.mark.parametrize(("n", "m", "rank"), SHAPES)
def test_weingarten_term_is_the_turning_of_the_tangent_space(n, m, rank, generator):
    Y = planted(generator, 1, n, m, np.linspace(2, 1, rank))
    G = normal(generator, 1, n, m)
    point = FixedRankPoint.from_matrix(Y, rank)
    xi = point.project_tangent(normal(generator, 1, n, m))
    h = 1e-5
    ahead, behind = (
        FixedRankPoint.from_matrix(torch.as_tensor(truncate((Y + step * xi).numpy(), rank)), rank)
        for step in (h, -h)
    )
    normal_part = point.project_normal(G)
    turned = (ahead.project_tangent(normal_part) - behind.project_tangent(normal_part)) / (2 * h)
    found = point.weingarten(G, xi)
    assert torch.allclose(found, point.project_tangent(turned), rtol=0, atol=1e-7)
    assert torch.allclose(point.project_tangent(found), found, rtol=0, atol=1e-12)
    assert torch.allclose(point.weingarten(G, xi + normal_part), found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "m", "rank"), SHAPES)
def test_weingarten_term_is_that_of_the_published_formula_and_has_its_closed_spectrum(n, m, rank, generator):
    Y, G = generic(generator, 1, n, m), normal(generator, 1, n, m)
    point = FixedRankPoint.from_matrix(Y, rank)
    U, s, V = point.U[0].numpy(), point.s[0].numpy(), point.V[0].numpy()
    outside_U, outside_V = np.eye(n) - U @ U.T, np.eye(m) - V @ V.T
    basis = point.tangent_basis()[0].numpy()
    images = []
    for column in basis.T:
        xi = column.reshape(n, m)
        U_p, V_p = outside_U @ xi @ V, outside_V @ xi.T @ U
        g = G[0].numpy()
        image = outside_U @ g @ V_p @ np.diag(1 / s) @ V.T + U @ np.diag(1 / s) @ U_p.T @ g @ outside_V
        found = point.weingarten(G, torch.as_tensor(xi)[None])[0]
        np.testing.assert_allclose(found, image, rtol=0, atol=1e-11)
        images.append(basis.T @ image.reshape(-1))
    expected = np.linalg.eigvalsh(np.array(images))
    np.testing.assert_allclose(point.weingarten_spectrum(G)[0], expected, rtol=0, atol=1e-11)
    bend = point.riemannian_hessian(torch.zeros(1, n * m, n * m), G)[0]
    np.testing.assert_allclose(bend, np.array(images), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "m", "rank"), SHAPES)
def test_squared_distance_at_the_nearest_matrix_has_curvatures_one_plus_and_minus_ratios(
    n, m, rank, generator
):
    s = np.array([5.0, 4.0, 2.5, 2.0, 1.0])[: min(n, m)]
    A = planted(generator, 2, n, m, s)
    point = FixedRankPoint.from_matrix(A, rank)
    H, G = torch.eye(n * m).expand(2, -1, -1).double(), point.matrix() - A
    ratios = (s[rank:, None] / s[None, :rank]).reshape(-1)
    expected = np.sort(np.r_[1 - ratios, np.ones(point.dim_tangent - 2 * len(ratios)), 1 + ratios])
    found = torch.linalg.eigvalsh(point.riemannian_hessian(H, G))
    np.testing.assert_allclose(found, [expected] * 2, rtol=0, atol=1e-13)
    np.testing.assert_allclose(point.chi(H, G), s[rank] / s[rank - 1], rtol=1e-12)
    np.testing.assert_allclose(point.chi(-4 * H, G), s[rank] / s[rank - 1] / 4, rtol=1e-12)
    np.testing.assert_allclose(point.curvature_ratio(H), 1, rtol=1e-13)


@pytest.mark.parametrize("t", [0, 4, 9])
def test_data_on_a_linear_manifold_bend_the_energy_by_the_known_ratio(t, generator):
    """E = yᵀΣ⁻¹y/2 with Σ = ᾱs²P_T + σ²I: C = (ᾱs² + σ²)/σ², and F follows C·F(dim N, dim T)."""
    count, n, rank, s = 1000, 6, 2, 1.0
    schedule = cosine_schedule()
    abar, noise = schedule.abar[t].item(), schedule.sigma[t].item() ** 2
    known = (abar * s**2 + noise) / noise
    Y = planted(generator, 1, n, n, [2.0, 1.0])
    P = np.eye(n * n) - kronecker_projectors(Y[0].numpy(), rank)["normal"]
    covariance = abar * s**2 * P + noise * np.eye(n * n)
    H = torch.as_tensor(np.linalg.inv(covariance))
    assert FixedRankPoint.from_matrix(Y, rank).curvature_ratio(H[None]).item() == pytest.approx(known)
    y = normal(generator, count, n * n) @ torch.as_tensor(np.linalg.cholesky(covariance)).mT
    G = (y @ H).reshape(count, n, n)
    found = tangent_normal(G, Y.expand(count, -1, -1), rank)
    law = scipy.stats.f((n - rank) ** 2, rank * (2 * n - rank))
    # Along T the gradient has variance 1/(ᾱs² + σ²), across it 1/σ².
    assert scipy.stats.kstest(found.ratio / known, law.cdf).pvalue > LEVEL


def bad_batch(generator):
    """Nine pairs of which rows 0 … 6 are bad, each for another reason, and 7 and 8 are good."""
    Y, G = generic(generator, 9, 6, 5), normal(generator, 9, 6, 5)
    Y[0, 1, 1] = math.nan
    Y[1, 0, 0] = math.inf
    Y[2] = 0
    Y[3] = planted(generator, 1, 6, 5, [2.0, 1.0])
    Y[4] = planted(generator, 1, 6, 5, [2.0, 1.0, 1.0])
    G[5, 2, 2] = math.nan
    G[6] = 0
    return Y, G


def test_bad_rows_come_out_undefined_and_leave_the_others_as_they_are(generator):
    Y, G = bad_batch(generator)
    # Rank 3 is above that of row 3, and rank 2 cuts through a double singular value in row 4.
    for rank, bad_point in ((3, [0, 1, 2, 3]), (2, [0, 1, 2, 4])):
        found, alone = tangent_normal(G, Y, rank), tangent_normal(G[7:], Y[7:], rank)
        bad = torch.zeros(9, dtype=torch.bool)
        bad[[*bad_point, 5, 6]] = True
        assert torch.equal(found.defined, ~bad)
        for name in ("shares", "ratio", "p_value", "radial_cosine", "ratio_without_radial"):
            values = getattr(found, name)
            assert values[bad].isnan().all()
            assert values[~bad].isfinite().all()
            assert torch.allclose(values[7:], getattr(alone, name), rtol=1e-12)
        assert found.gap[:3].isnan().all()
        assert found.gap[bad_point[3]].item() == 0


def test_bad_rows_do_not_fail_hessians_and_spectra(generator):
    Y, G = bad_batch(generator)
    H = normal(generator, 9, 30, 30)
    H = H + H.mT
    H[8, 0, 0] = math.nan
    point, alone = FixedRankPoint.from_matrix(Y, 3), FixedRankPoint.from_matrix(Y[7:8], 3)
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(point.U.mT @ point.U, identity, atol=1e-13)
    assert torch.allclose(point.V.mT @ point.V, identity, atol=1e-13)
    good = {
        "riemannian_gradient": (
            point.riemannian_gradient(G),
            alone.riemannian_gradient(G[7:8]),
            {0, 1, 2, 3, 5},
        ),
        "weingarten": (point.weingarten(G, Y), alone.weingarten(G[7:8], Y[7:8]), {0, 1, 2, 3, 5}),
        "weingarten_spectrum": (
            point.weingarten_spectrum(G),
            alone.weingarten_spectrum(G[7:8]),
            {0, 1, 2, 3, 5},
        ),
        "curvature_ratio": (point.curvature_ratio(H), alone.curvature_ratio(H[7:8]), {0, 1, 2, 3, 8}),
        "chi": (point.chi(H, G), alone.chi(H[7:8], G[7:8]), {0, 1, 2, 3, 5, 8}),
    }
    for values, expected, bad in good.values():
        values = values.reshape(9, -1)
        assert set(torch.nonzero(values.isnan().any(1)).flatten().tolist()) == bad
        assert torch.allclose(values[7], expected.flatten(), rtol=1e-10, atol=1e-12)
    for hessian, bad in (
        (point.projected_hessian(H), {0, 1, 2, 3, 8}),
        (point.riemannian_hessian(H, G), {0, 1, 2, 3, 5, 8}),
    ):
        assert set(torch.nonzero(hessian.isnan().any(2).any(1)).flatten().tolist()) == bad


def test_rank_deficiency_is_seen_in_the_precision_the_matrix_came_in(generator):
    exact = planted(generator, 1, 8, 8, [1.0, 0.5])
    assert FixedRankPoint.from_matrix(exact, 3).gap.item() == 0
    assert FixedRankPoint.from_matrix(exact.float(), 3).gap.item() == 0
    assert FixedRankPoint.from_matrix(exact.float().double(), 3).gap.item() > 0


def test_single_precision_gives_the_result_of_double_precision(generator):
    Y, G = planted(generator, 4, 7, 6, [4.0, 3.0, 1.0, 0.5]), normal(generator, 4, 7, 6)
    single, double = tangent_normal(G.float(), Y.float(), 2), tangent_normal(G, Y, 2)
    assert single.ratio.dtype == torch.float64
    assert torch.allclose(single.shares, double.shares, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [-1, 0, 4, 5, 20])
def test_rank_without_a_tangent_or_normal_space_is_refused(rank, generator):
    Y = normal(generator, 2, 4, 6)
    message = rf"rank must lie in 1 … min\(n, m\) − 1 = 3, found {rank}"
    with pytest.raises(ConfigError, match=message):
        FixedRankPoint.from_matrix(Y, rank)
    with pytest.raises(ConfigError, match=message):
        tangent_normal(Y, Y, rank)


def test_wrong_shapes_and_names_are_refused_by_what_was_expected(generator):
    Y = normal(generator, 2, 4, 6)
    point = FixedRankPoint.from_matrix(Y, 2)
    with pytest.raises(ConfigError, match=r"batch of matrices \(B, n, m\), found shape \(4, 6\)"):
        FixedRankPoint.from_matrix(Y[0], 2)
    with pytest.raises(ConfigError, match=r"unknown block 'middle': use one of core, column, row, normal"):
        point.block("middle", Y)
    for call in (point.project_tangent, point.block_squares, point.weingarten_spectrum):
        with pytest.raises(ConfigError, match=r"expected matrices of shape \(2, 4, 6\), found \(1, 4, 6\)"):
            call(Y[:1])
    with pytest.raises(ConfigError, match=r"expected matrices of shape \(2, 4, 6\), found \(2, 6, 4\)"):
        tangent_normal(Y.mT, Y, 2)
    with pytest.raises(ConfigError, match=r"expected Hessians of shape \(2, 24, 24\), found \(2, 24\)"):
        point.projected_hessian(normal(generator, 2, 24))


def test_an_empty_batch_gives_an_empty_result():
    found = tangent_normal(torch.zeros(0, 4, 5), torch.zeros(0, 4, 5), 2)
    assert found.shares.shape == (0, 4)
    assert found.ratio.shape == found.defined.shape == (0,)
