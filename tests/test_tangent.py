"""EXP-005 on landscapes whose answer is known: planted manifolds, closed forms and dense projectors."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.stats
import torch

from iredinterp.analyses.tangent import tangent_table
from iredinterp.analyses.tangent.manifolds import CELLS
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.geometry.fixed_rank import BLOCKS, tangent_normal
from iredinterp.geometry.symmetric import SYMMETRIC_BLOCKS, tangent_normal_symmetric
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import point_tensors, points_table, problems_table
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.analytic import GaussianPosterior, InverseResidualEnergy

LEVELS = 10
NO_BASE = "the point has no singular gap at this rank, hence no nearest matrix"
NO_TRACE = "no trace along the manifold, or the answer has no singular gap at this rank"
NO_SPLIT = "the gradient is zero or not finite, or the answer has no gap that tells the blocks apart"
ORDER = [(name, "ascending") for name in ("metric", "component", "problem_id", "t", "point_kind", "draw")]
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def haar(generator, *shape):
    Q, R = torch.linalg.qr(normal(generator, *shape))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def drawn(spec, count, generator):
    """Problems of a distribution as a table, and the keys of whoever is analysed on them."""
    keys = {"model": "planted", "condition": "trained", "task": spec.task, "n": spec.n, "rank": spec.rank}
    return problems_table(draw_problems(spec, count, generator)), keys


def replaced(table, **columns):
    for name, tensor in columns.items():
        table = table.set_column(table.column_names.index(name), name, tensor_array(tensor))
    return table


def completion(generator, count=3, n=5, rank=2, **more):
    return drawn(ProblemSpec("completion", n, rank=rank, **more), count, generator)


def inverse(generator, count=3, n=4, **more):
    return drawn(ProblemSpec("inverse", n, **more), count, generator)


def knowing(problems):
    """The problems with the answer in place of x."""
    return replaced(problems, x=tensor_column(problems, "y_star"))


def oracle(d):
    """Bayes-optimal where x is the answer: E = ‖y − √ᾱ_t x‖²/2σ_t, whose gradient is the noise."""
    return GaussianPosterior(slope=torch.eye(d), covariance=torch.zeros(d, d))


def distance_to_x(d):
    """E = ½‖y − x‖², the same at every level."""
    return CallableEnergy(lambda x, y, t: (y - x).square().sum(-1) / 2, d, d)


def network(generator, dim_x, dim_y, hidden=32):
    return MLPEnergy(EnergyMLP.random(dim_x, dim_y, hidden, generator).to(torch.float64))


def tabled(energy, problems, keys, seed=0, draws=1, kinds=("q_sample",), **options):
    return tangent_table(
        energy, points_table(energy, problems, keys, kinds, seed, draws), problems, **options
    )


def values(table, name, component=""):
    """A metric as (P, draws, K), problems and levels ascending; every entry defined."""
    frame = rows_of(table, name, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    problems, draws = frame["problem_id"].nunique(), frame["draw"].nunique()
    return torch.tensor(frame["value"].to_numpy()).reshape(problems, draws, -1)


def reason(table, name, component=""):
    frame = rows_of(table, name, component)
    assert frame["value"].isna().all(), f"{name} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def rows_of(table, name, component=""):
    chosen = pc.and_(pc.equal(table["metric"], name), pc.equal(table["component"], component))
    frame = table.filter(chosen).to_pandas()
    assert len(frame), f"no rows of {name} {component!r}"
    return frame.sort_values(["problem_id", "draw", "t"])


def assert_same(found, expected, rtol=1e-9, atol=1e-11):
    assert found.drop_columns(["value"]).equals(expected.drop_columns(["value"]))
    pair = (tensor_column(table, "value") for table in (found, expected))
    torch.testing.assert_close(*pair, rtol=rtol, atol=atol, equal_nan=True)


def assert_law(ratios, dim_normal, dim_tangent):
    # Right code fails this once in 10⁸ tries.
    assert scipy.stats.kstest(ratios.numpy(), scipy.stats.f(dim_normal, dim_tangent).cdf).pvalue > 1e-8


def tangent_projector(Y, rank):
    """P_T in the space of flattened matrices, from Kronecker products."""
    U, _, Vh = np.linalg.svd(Y.numpy())
    P, Q = U[:, :rank] @ U[:, :rank].T, Vh[:rank].T @ Vh[:rank]
    return torch.tensor(np.kron(P, np.eye(len(Q))) + np.kron(np.eye(len(P)), Q) - np.kron(P, Q))


def symmetric_projector(n):
    swap = torch.eye(n * n, dtype=torch.float64).reshape(n, n, -1).transpose(0, 1).reshape(n * n, -1)
    return (torch.eye(n * n, dtype=torch.float64) + swap) / 2


@pytest.mark.parametrize("s", [1.0, 0.3])
def test_answers_spread_along_a_linear_manifold_give_the_planted_curvature_ratio_and_law(s, generator):
    n, count = 4, 300
    P = symmetric_projector(n)
    slope = P @ normal(generator, n * n, n * n) / n
    energy = GaussianPosterior(slope=slope, covariance=s**2 * P)
    problems, keys = inverse(generator, count, n)
    x = tensor_column(problems, "x").flatten(1)
    answers = x @ slope.mT + s * normal(generator, count, n * n) @ P
    problems = replaced(problems, y_star=answers.reshape(-1, n, n))
    table = tabled(energy, problems, keys, seed=int(torch.randint(2**31, (1,), generator=generator)))
    schedule = energy.schedule
    C = (schedule.abar * s**2 + schedule.sigma**2) / schedule.sigma**2
    for component in ("", "shuffled pair"):
        found = values(table, "curvature_ratio", component)
        torch.testing.assert_close(found, C.expand(count, 1, -1), rtol=1e-8, atol=0)
    if s == 1:
        assert C[0].item() == pytest.approx(35.8, abs=0.05)
        assert C[9].item() == pytest.approx(1, abs=1e-4)
    ratios = values(table, "normal_tangent_ratio")[:, 0]
    for t in range(LEVELS):
        assert_law(ratios[:, t] / C[t], 6, 10)


def test_untrained_networks_point_along_and_across_the_manifold_alike(generator):
    # Rank 1 of 6×6 matrices: dim T = 11, dim N = 25. Within a network gradients resemble each other.
    ratios, shares = [], []
    for _ in range(3):
        problems, keys = completion(generator, 60, n=6, rank=1)
        table = tabled(network(generator, 36, 36, 64), problems, keys)
        ratios.append(values(table, "normal_tangent_ratio"))
        shares.append(values(table, "block_share", "normal"))
    mean = torch.stack(ratios).mean()
    assert values(table, "normal_tangent_low")[0, 0, 0] < mean < values(table, "normal_tangent_high")[0, 0, 0]
    assert mean.item() == pytest.approx(11 / 9, rel=0.25)
    assert torch.stack(shares).mean().item() == pytest.approx(25 / 36, abs=0.06)


def test_optimal_energy_of_a_single_answer_is_isotropic_and_points_at_the_answer(generator):
    problems, keys = completion(generator, 300)
    table = tabled(oracle(25), knowing(problems), keys, seed=int(normal(generator, 1).abs() * 1e6))
    ones = torch.ones(300, 1, LEVELS, dtype=torch.float64)
    for found in (values(table, "curvature_ratio"), values(table, "error_cosine")):
        torch.testing.assert_close(found, ones, **EXACT)
    # The gradient is the noise, the same at every level.
    assert_law(values(table, "normal_tangent_ratio")[:, 0, 0], 9, 16)
    assert_law(values(table, "normal_tangent_ratio", "shuffled pair")[:, 0, 0], 9, 16)
    assert_law(values(table, "normal_tangent_ratio", "radial removed")[:, 0, 0], 9, 15)
    p = values(table, "normal_tangent_p")[:, 0, 0]
    assert scipy.stats.kstest(p.numpy(), "uniform").pvalue > 1e-8
    torch.testing.assert_close(values(table, "smallest_curvature", "projected"), ones, rtol=1e-9, atol=0)


def test_shares_of_blocks_and_of_cells_add_up_to_one_beside_their_nulls(generator):
    problems, keys = completion(generator)
    table = tabled(network(generator, 25, 25), problems, keys, draws=2)
    ones = torch.ones(3, 2, LEVELS, dtype=torch.float64)
    for metric in ("block_share", "block_share_shuffled", "block_share_null"):
        torch.testing.assert_close(sum(values(table, metric, block) for block in BLOCKS), ones)
    for block, dim in {"core": 4, "column": 6, "row": 6, "normal": 9}.items():
        torch.testing.assert_close(values(table, "block_share_null", block), ones * dim / 25)
        law = scipy.stats.beta(dim / 2, (25 - dim) / 2)
        for name, quantile in (("low", 0.025), ("high", 0.975)):
            found = values(table, f"block_share_{name}", block)
            torch.testing.assert_close(found, ones * law.ppf(quantile), rtol=1e-9, atol=0)
    torch.testing.assert_close(sum(values(table, "cell_share", cell) for cell in CELLS), ones)
    torch.testing.assert_close(sum(values(table, "cell_share_null", cell) for cell in CELLS), ones)
    tangent = sum(values(table, "cell_share", cell) for cell in CELLS[:2])
    torch.testing.assert_close(tangent, 1 - values(table, "block_share", "normal"))


def test_cells_are_those_of_dense_projectors(generator):
    problems, keys = completion(generator)
    energy = network(generator, 25, 25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    table = tangent_table(energy, points, problems)
    g = energy.gradient(*point_tensors(energy, points, problems)).reshape(LEVELS, 3, 25)
    masks = tensor_column(problems, "mask").flatten(1)
    for row, Y in enumerate(tensor_column(problems, "y_star")):
        P, mask = tangent_projector(Y, 2), masks[row]
        for cell in CELLS:
            entries = mask if "observed" in cell else 1 - mask
            side = P if "tangent" in cell else torch.eye(25) - P
            share = (entries * (g[:, row] @ side)).square().sum(1) / g[:, row].square().sum(1)
            torch.testing.assert_close(values(table, "cell_share", cell)[row, 0], share, **EXACT)
            null = ((torch.diag(entries) @ side).trace() / 25).expand(LEVELS)
            torch.testing.assert_close(values(table, "cell_share_null", cell)[row, 0], null, **EXACT)


@pytest.mark.parametrize("task", ["completion", "inverse"])
def test_the_shuffled_pair_is_the_next_problems_answer_even_where_points_lack_it(task, generator):
    problems, keys = (completion if task == "completion" else inverse)(generator, 4)
    n = keys["n"]
    energy = network(generator, n * n, n * n)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    points = points.filter(pc.not_equal(points["problem_id"], 1))
    table = tangent_table(energy, points, problems)
    G = energy.gradient(*point_tensors(energy, points, problems)).reshape(-1, n, n)
    Y = tensor_column(problems, "y_star")[(points["problem_id"].to_numpy() + 1) % 4]
    expected = tangent_normal(G, Y, 2) if task == "completion" else tangent_normal_symmetric(G, Y)

    def per_problem(tensor):
        return tensor.reshape(LEVELS, 3).mT.unsqueeze(1)

    for index, name in enumerate(BLOCKS if task == "completion" else SYMMETRIC_BLOCKS):
        found = values(table, "block_share_shuffled", name)
        torch.testing.assert_close(found, per_problem(expected.shares[:, index]), **EXACT)
    found = values(table, "normal_tangent_ratio", "shuffled pair")
    torch.testing.assert_close(found, per_problem(expected.ratio), **EXACT)
    # All symmetric matrices share one tangent space.
    assert torch.allclose(found, values(table, "normal_tangent_ratio")) == (task == "inverse")


def test_curvature_ratio_of_a_shuffled_pair_is_that_of_the_other_tangent_space(generator):
    problems, keys = completion(generator)
    energy = network(generator, 25, 25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    table = tangent_table(energy, points, problems)
    H = energy.hessian(*point_tensors(energy, points, problems)).reshape(LEVELS, 3, 25, 25)
    projectors = torch.stack([tangent_projector(Y, 2) for Y in tensor_column(problems, "y_star")])
    for component, P in {"": projectors, "shuffled pair": projectors.roll(-1, 0)}.items():
        along = (P * H).sum((-2, -1)) / 16
        across = ((torch.eye(25) - P) * H).sum((-2, -1)) / 9
        found = values(table, "curvature_ratio", component)[:, 0].mT
        torch.testing.assert_close(found, across / along, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gradient_along_the_answer_itself_is_tangent_for_a_trivial_reason(sign, generator):
    for problems, keys in (completion(generator), inverse(generator)):
        d = keys["n"] ** 2
        energy = CallableEnergy(lambda x, y, t: sign * (x * y).sum(-1), d, d)
        table = tabled(energy, knowing(problems), keys)
        cosine = values(table, "radial_cosine")
        torch.testing.assert_close(cosine, torch.full_like(cosine, sign))
        s = torch.linalg.svdvals(tensor_column(problems, "y_star"))
        stable = (s.square().sum(1) / s[:, 0].square())[:, None, None].expand(-1, 1, LEVELS)
        torch.testing.assert_close(values(table, "stable_rank"), stable, **EXACT)
        assert (values(table, "normal_tangent_ratio") < 1e-20).all()
        assert reason(table, "normal_tangent_ratio", "radial removed") == NO_SPLIT
        assert reason(table, "curvature_ratio") == NO_TRACE


def test_squared_distance_bends_on_the_manifold_by_the_ratio_of_singular_values(generator):
    n, rank, count = 5, 2, 4
    problems, keys = completion(generator, count, n, rank)
    U, V = haar(generator, 2, count, n, n)
    s = torch.tensor([3.0, 2.0]) + 0.9 * torch.rand(count, 2, generator=generator).double()
    # Of the matrix to which the distance is taken: the last two problems have a tail above σ_r.
    tail = torch.tensor([1.0, 0.6, 0.3]) + 0.2 * torch.rand(count, 3, generator=generator).double()
    tail[2:, 0] = 5
    near = 0.3 * tail / tail[:, :1]

    def matrix(rest):
        return U * torch.cat([s, rest], 1).unsqueeze(1) @ V.mT

    energy, problems = distance_to_x(n * n), replaced(problems, x=matrix(tail))
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    points = replaced(points, y=matrix(near).repeat(LEVELS, 1, 1))
    table = tangent_table(energy, points, problems)
    sigma = energy.schedule.sigma.double()

    def expected(per_problem):
        return per_problem[:, None, None].expand(-1, 1, LEVELS)

    size, lowest = torch.cat([s, near], 1).norm(dim=1), s.amin(1)
    for name, truth in {
        "base_distance": near.norm(dim=1) / size,
        "base_gap": (lowest - near[:, 0]) / size,
        "weingarten_dominance": tail[:, 0] / lowest,
    }.items():
        torch.testing.assert_close(values(table, name), expected(truth), **EXACT)
    assert (values(table, "riemannian_gradient_norm") < 1e-12).all()
    smallest = expected(1 - tail[:, 0] / lowest) * sigma
    torch.testing.assert_close(values(table, "smallest_curvature", "riemannian"), smallest, **EXACT)
    torch.testing.assert_close(
        values(table, "smallest_curvature", "projected"), sigma.expand(count, 1, -1), **EXACT
    )
    assert (values(table, "negative_index", "projected") == 0).all()
    # 1 − τ_j/σ_i < 0 for one eigenvector per pair, of dim T = r(2n − r) = 16.
    negative = (tail[:, :, None] > s[:, None, :]).sum((1, 2)).double() / 16
    torch.testing.assert_close(values(table, "negative_index", "riemannian"), expected(negative))
    assert negative.tolist() == [0, 0, 2 / 16, 2 / 16]


def test_riemannian_gradient_is_the_tangent_part_at_the_nearest_matrix(generator):
    problems, keys = completion(generator)
    energy = network(generator, 25, 25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    x, y, t = point_tensors(energy, points, problems)
    U, s, Vh = torch.linalg.svd(y.reshape(-1, 5, 5))
    base = (U[..., :2] * s[:, None, :2]) @ Vh[:, :2]
    g = energy.gradient(x, base.flatten(1), t)
    slopes = [(tangent_projector(Y, 2) @ row).norm() for Y, row in zip(base, g, strict=True)]
    found = values(tangent_table(energy, points, problems), "riemannian_gradient_norm")[:, 0]
    torch.testing.assert_close(found.mT.flatten(), torch.stack(slopes), **EXACT)


def test_spd_distance_of_commuting_matrices_is_that_of_their_logarithms(generator):
    problems, keys = inverse(generator)
    Y = tensor_column(problems, "y_star")
    eigenvalues, Q = torch.linalg.eigh(Y)
    others = eigenvalues * normal(generator, 3, 4).exp()
    proposed = Q * others.unsqueeze(1) @ Q.mT
    skew = normal(generator, 3, 4, 4)
    proposed = proposed + skew - skew.mT
    energy = network(generator, 16, 16)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    scale = energy.schedule.sqrt_alphas_cumprod[:, None, None, None]
    table = tangent_table(energy, replaced(points, y=(scale * proposed).flatten(0, 1)), problems)
    expected = (others / eigenvalues).log().norm(dim=1)[:, None, None].expand(-1, 1, LEVELS)
    torch.testing.assert_close(values(table, "spd_distance"), expected, rtol=1e-6, atol=1e-6)
    table = tangent_table(energy, replaced(points, y=(-scale * proposed).flatten(0, 1)), problems)
    assert reason(table, "spd_distance") == "the symmetric part of the point is not positive definite"


@pytest.mark.parametrize("sign", [1, -1])
def test_residual_cosine_recognises_the_energy_of_the_residual_and_its_reverse(sign, generator):
    residual = InverseResidualEnergy(n=4)
    scale = residual.schedule.sqrt_alphas_cumprod

    def function(x, y, t):
        return sign * residual.function(x, y / scale[t].unsqueeze(-1), t)

    problems, keys = inverse(generator, kappa=5.0)
    # The x of problems of given condition number is the inverse times a number.
    problems = replaced(problems, x=torch.linalg.inv(tensor_column(problems, "y_star")))
    found = values(tabled(CallableEnergy(function, 16, 16), problems, keys), "residual_cosine")
    torch.testing.assert_close(found, torch.full_like(found, sign), **EXACT)


def test_addition_has_no_manifold(generator):
    problems, keys = drawn(ProblemSpec("addition", 3), 2, generator)
    table = tabled(network(generator, 18, 9), problems, keys)
    assert {"normal_tangent_ratio", "curvature_ratio"} <= set(table["metric"].to_pylist())
    assert table["value"].null_count == table.num_rows
    assert set(table["reason"].to_pylist()) == {"answers of addition lie on no manifold"}


@pytest.mark.parametrize("bad", ["rank below r", "no gap", "zero"])
def test_only_a_problem_without_a_tangent_space_loses_its_ratios(bad, generator):
    problems, keys = completion(generator, 4)
    Y, U, V = tensor_column(problems, "y_star"), haar(generator, 5, 5), haar(generator, 5, 5)
    s = {"rank below r": [1, 0, 0, 0, 0], "no gap": [2, 1, 1, 0.5, 0], "zero": [0] * 5}[bad]
    Y[1] = U @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ V.mT
    energy = network(generator, 25, 25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    problems = replaced(problems, y_star=Y, signal=Y)
    table = tangent_table(energy, points, problems)
    lost = {
        ("normal_tangent_ratio", ""): NO_SPLIT,
        ("normal_tangent_ratio", "radial removed"): NO_SPLIT,
        ("normal_tangent_p", ""): NO_SPLIT,
        ("block_share", "row"): NO_SPLIT,
        ("radial_cosine", ""): NO_SPLIT,
        ("cell_share", "tangent observed"): NO_SPLIT,
        ("cell_share_null", "normal missing"): NO_SPLIT,
        ("curvature_ratio", ""): NO_TRACE,
    }
    for (name, component), why in lost.items():
        frame = rows_of(table, name, component)
        assert frame[frame["value"].isna()]["problem_id"].unique().tolist() == [1], name
        assert frame["reason"].dropna().unique().tolist() == [why], name
    for name in ("error_cosine", "stable_rank", "base_distance", "smallest_curvature"):
        component = "riemannian" if name == "smallest_curvature" else ""
        assert values(table, name, component).shape == (4, 1, LEVELS)
    # The problem before it takes its answer as the shuffled pair.
    for name, component in [("normal_tangent_ratio", "shuffled pair"), ("block_share_shuffled", "core")]:
        frame = rows_of(table, name, component)
        assert frame[frame["value"].isna()]["problem_id"].unique().tolist() == [0], name

    def others(table):
        return table.filter(pc.not_equal(table["problem_id"], 1))

    def unpaired(table):
        paired = pc.or_(
            pc.equal(table["component"], "shuffled pair"), pc.equal(table["metric"], "block_share_shuffled")
        )
        return table.filter(pc.invert(paired))

    without = tangent_table(energy, others(points), others(problems))
    assert_same(unpaired(others(table)), unpaired(without))


def test_a_point_not_finite_or_without_a_gradient_or_a_nearest_matrix_is_null_alone(generator):
    problems, keys = completion(generator)
    energy = distance_to_x(25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    y = tensor_column(points, "y")
    y[0] = tensor_column(problems, "x")[0]
    y[1], y[2] = 0, torch.nan
    table = tangent_table(energy, replaced(points, y=y), problems)
    plain = tangent_table(energy, points, problems)
    for name, component, bad, why in [
        ("normal_tangent_ratio", "", [0, 2], NO_SPLIT),
        ("normal_tangent_ratio", "shuffled pair", [0, 2], NO_SPLIT),
        ("cell_share", "normal observed", [0, 2], NO_SPLIT),
        ("error_cosine", "", [0, 2], "the gradient is zero or not finite"),
        ("stable_rank", "", [0, 2], "the gradient is zero or not finite"),
        ("base_distance", "", [1, 2], NO_BASE),
        ("base_gap", "", [1, 2], NO_BASE),
        ("riemannian_gradient_norm", "", [1, 2], NO_BASE),
        ("weingarten_dominance", "", [1, 2], NO_BASE),
        ("smallest_curvature", "projected", [1, 2], NO_BASE),
        ("negative_index", "riemannian", [1, 2], NO_BASE),
    ]:
        missing = rows_of(table, name, component).query("value.isna()")
        assert missing[["problem_id", "t"]].to_numpy().tolist() == [[bad[0], 0], [bad[1], 0]], name
        assert missing["reason"].unique().tolist() == [why], name
    kept = pc.not_equal(table["t"], 0)
    assert_same(table.filter(kept), plain.filter(kept))


def test_a_symmetric_answer_with_equal_eigenvalues_keeps_its_ratio(generator):
    problems, keys = inverse(generator)
    Y = tensor_column(problems, "y_star")
    Y[1] = torch.eye(4)
    table = tabled(network(generator, 16, 16), replaced(problems, y_star=Y), keys)
    assert values(table, "normal_tangent_ratio").shape == (3, 1, LEVELS)
    assert values(table, "block_share", "skew").shape == (3, 1, LEVELS)
    frame = rows_of(table, "block_share", "spectral")
    assert frame[frame["value"].isna()]["problem_id"].unique().tolist() == [1]
    assert frame["reason"].dropna().unique().tolist() == [NO_SPLIT]


def test_neither_chunks_nor_blocks_of_points_change_the_result(generator):
    for problems, keys in (completion(generator), inverse(generator)):
        d = keys["n"] ** 2
        energy = network(generator, d, d)
        points = points_table(energy, problems, keys, ["q_sample", "trajectory"], 0, 2)
        whole = tangent_table(energy, points, problems)
        assert_same(tangent_table(energy, points, problems, chunk=7), whole, rtol=1e-7)
        parts = [tangent_table(energy, points.slice(i, 50), problems) for i in range(0, len(points), 50)]
        joined, whole = (table.sort_by(ORDER) for table in (pa.concat_tables(parts), whole))
        assert_same(joined, whole, rtol=1e-7)


def test_answers_with_noise_are_met_at_their_signal_and_rank_one(generator):
    problems, keys = drawn(ProblemSpec("completion", 5), 3, generator)
    energy = network(generator, 25, 25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    table = tangent_table(energy, points, problems)
    assert_same(tangent_table(energy, points, problems, rank=1), table)
    G = energy.gradient(*point_tensors(energy, points, problems)).reshape(-1, 5, 5)
    expected = tangent_normal(G, tensor_column(problems, "signal").repeat(LEVELS, 1, 1), 1)
    found = values(table, "normal_tangent_ratio")[:, 0]
    torch.testing.assert_close(found.mT.flatten(), expected.ratio, **EXACT)
    scale = energy.schedule.sqrt_alphas_cumprod.repeat_interleave(3)[:, None, None]
    error = tensor_column(points, "y") - scale * tensor_column(problems, "y_star").repeat(LEVELS, 1, 1)
    cosine = torch.nn.functional.cosine_similarity(G.flatten(1), error.flatten(1))
    torch.testing.assert_close(values(table, "error_cosine")[:, 0].mT.flatten(), cosine, **EXACT)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_without_a_normal_space_is_refused_by_its_range(rank, generator):
    problems, keys = completion(generator)
    with pytest.raises(ConfigError, match=r"rank must lie in 1 … min\(n, m\) − 1 = 4, found"):
        tabled(oracle(25), knowing(problems), keys, rank=rank)


def test_points_that_are_none_of_several_tasks_or_without_a_problem_are_refused(generator):
    problems, keys = completion(generator)
    energy = oracle(25)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    other = points_table(energy, problems, keys | {"task": "inverse"}, ["q_sample"], 0)
    with pytest.raises(TableError, match="the points table is empty; give at least one point"):
        tangent_table(energy, points.slice(0, 0), problems)
    with pytest.raises(TableError, match="found points of completion and inverse; give those of one task"):
        tangent_table(energy, pa.concat_tables([points, other]), problems)
    with pytest.raises(ConfigError, match="not in the problems table"):
        tangent_table(energy, points, problems.slice(1))
