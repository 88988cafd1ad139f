"""EXP-006 on landscapes whose posterior, manifold or gradient is known."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.score import agreement_table, score_table
from iredinterp.analyses.score.jacobian import DenoiserJacobian, random_trace_deviation
from iredinterp.bases import BASES, GeometricBases, haar_deviation
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.geometry.subspace import chordal_distance
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.linalg import principal_angles
from iredinterp.points import point_tensors, points_table, problems_table
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.analytic import GaussianPosterior, QuadraticEnergy, haar_orthogonal
from iredinterp.truth.oracle import BayesOracle

LEVELS = 10
EXACT = {"rtol": 1e-9, "atol": 1e-10}
FLOOR = "below the noise floor of the Jacobian, or no gap identifies its eigenvectors"


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def drawn(spec, count, generator):
    """Problems of a distribution as a table, and the keys of whoever is analysed on them."""
    keys = {"model": "planted", "condition": "trained", "task": spec.task, "n": spec.n, "rank": spec.rank}
    return problems_table(draw_problems(spec, count, generator)), keys


def completion(generator, count=3, n=4, rank=2, **more):
    return drawn(ProblemSpec("completion", n, rank=rank, **more), count, generator)


def inverse(generator, count=3, n=4):
    return drawn(ProblemSpec("inverse", n), count, generator)


def replaced(table, **columns):
    for name, tensor in columns.items():
        table = table.set_column(table.column_names.index(name), name, tensor_array(tensor))
    return table


def gaussian(generator, variances):
    """Bayes-optimal where answers spread around x by given variances along random directions."""
    d = len(variances)
    Q = haar_orthogonal(d, generator)
    covariance = (Q * torch.as_tensor(variances, dtype=torch.float64)) @ Q.mT
    return GaussianPosterior(slope=torch.eye(d), covariance=(covariance + covariance.mT) / 2), Q


def network(generator, dim_x, dim_y, hidden=32):
    return MLPEnergy(EnergyMLP.random(dim_x, dim_y, hidden, generator).to(torch.float64))


def tabled(energy, problems, keys, seed=0, draws=1, kinds=("q_sample",), **options):
    return score_table(energy, points_table(energy, problems, keys, kinds, seed, draws), problems, **options)


def rows_of(table, name, component=""):
    chosen = pc.and_(pc.equal(table["metric"], name), pc.equal(table["component"], component))
    frame = table.filter(chosen).to_pandas()
    assert len(frame), f"no rows of {name} {component!r}"
    return frame.sort_values(["problem_id", "draw", "t", "index"])


def values(table, name, component=""):
    """A metric as (P, levels, K), problems, levels and indices ascending; every entry defined."""
    frame = rows_of(table, name, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    problems, levels = frame["problem_id"].nunique(), frame["t"].nunique()
    return torch.tensor(frame["value"].to_numpy()).reshape(problems, levels, -1)


def reason(table, name, component=""):
    frame = rows_of(table, name, component)
    assert frame["value"].isna().all(), f"{name} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def jacobian(hessian, count=3, floor=0.0):
    """Those of given Hessians at the noisiest level, (B, d, d)."""
    d = hessian.shape[-1]
    function = CallableEnergy(lambda x, y, t: (y * x).sum(-1), d, d)

    class Given(type(function)):
        def hessian(self, x, y, t, basis=None):
            return hessian

    given = Given(function.function, d, d)
    y = hessian.new_zeros(len(hessian), d)
    return DenoiserJacobian.of(given, y, y, torch.full((len(y),), 9), count, floor)


def symmetric_noise(generator, count, d):
    noise = normal(generator, count, d, d)
    return noise + noise.mT


# The denoiser's Jacobian


def test_leading_eigenvectors_of_a_planted_gaussian_are_those_of_its_covariance(generator):
    d, k = 16, 3
    energy, Q = gaussian(generator, [9.0, 4.0, 1.0] + [0.0] * (d - k))
    problems, keys = inverse(generator)
    table = tabled(energy, problems, keys, vectors=k, oracle=energy, floor=1e-6)
    for i in (1, 2):
        found = values(table, "eigenmatrix", str(i))
        # At level 9 the variances are those of ᾱ_t = 2.4e-5: ρ of some 1e-4, ε/ρ relative.
        assert ((found @ Q[:, i - 1]).square() > 1 - 1e-10).all()
    assert (values(table, "overlap", "posterior") > 1 - 1e-10).all()
    abar, sigma = energy.schedule.abar, energy.schedule.sigma
    s = torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64)
    rho = abar[:, None] * s / (abar[:, None] * s + sigma[:, None].square())
    torch.testing.assert_close(values(table, "response_eigenvalue"), rho.expand(3, -1, -1), **EXACT)
    size = rho.square().sum(1).sqrt().div(d**0.5)
    torch.testing.assert_close(values(table, "response_norm")[..., 0], size.expand(3, -1), **EXACT)
    norm = (size / abar.sqrt()).expand(3, -1)
    torch.testing.assert_close(values(table, "jacobian_norm")[..., 0], norm, rtol=1e-7, atol=0)
    assert (values(table, "negative_mass") < 1e-8).all()


def test_jacobian_of_the_denoiser_is_its_finite_difference_and_of_the_optimum_the_posterior_covariance(
    generator,
):
    d, step = 9, 1e-5
    for energy in (network(generator, d, d), gaussian(generator, torch.arange(9.0))[0]):
        t = torch.arange(LEVELS).repeat_interleave(2)
        x, y, v = normal(generator, 3, 2 * LEVELS, d)
        scale, sigma = (
            part[t, None] for part in (energy.schedule.sqrt_alphas_cumprod, energy.schedule.sigma)
        )

        def denoised(y, energy=energy, x=x, t=t, scale=scale, sigma=sigma):
            return (y - sigma * energy.gradient(x, y, t)) / scale

        slope = (denoised(y + step * v) - denoised(y - step * v)) / (2 * step)
        found = DenoiserJacobian.of(energy, x, y, t, d - 1, 0.0)
        last = torch.linalg.svd(found.vectors, full_matrices=True).U[..., -1:]
        E = torch.cat([found.vectors, last], dim=2)
        coordinates = (E.mT @ v.unsqueeze(-1)).squeeze(-1) * found.eigenvalues
        product = (E @ coordinates.unsqueeze(-1)).squeeze(-1) / scale
        torch.testing.assert_close(product, slope, rtol=1e-5, atol=1e-5 / scale.min().item() ** 0.5)


@pytest.mark.parametrize("task", ["addition", "inverse"])
def test_the_optimum_of_a_determined_answer_has_no_jacobian_and_refuses_to_be_compared(task, generator):
    spec = ProblemSpec(task, 3)
    problems, keys = drawn(spec, 4, generator)
    oracle = BayesOracle(spec)
    table = tabled(oracle, problems, keys, oracle=oracle)
    assert (values(table, "response_norm") < 1e-12).all()
    for name in BASES:
        assert reason(table, "overlap", name).startswith(FLOOR)
    assert reason(table, "overlap", "posterior") == f"{FLOOR}, of the model or of the optimum"
    assert reason(table, "eigenmatrix", "1") == FLOOR
    assert reason(table, "negative_mass") == "the Jacobian is zero to rounding, or not finite"
    # Every direction leaves the single answer.
    assert (values(table, "normal_dimension") == 9).all()


def test_eigenvectors_are_compared_exactly_where_the_largest_eigenvalue_passes_the_floor(generator):
    energy, _ = gaussian(generator, [4.0] + [0.0] * 15)
    problems, keys = inverse(generator)
    abar, sigma = energy.schedule.abar, energy.schedule.sigma
    rho = abar * 4 / (abar * 4 + sigma.square())
    table = tabled(energy, problems, keys, vectors=2, floor=float(rho[4] + rho[5]) / 4)
    frame = rows_of(table, "overlap", "tangent")
    assert sorted(frame[frame["value"].notna()]["t"].unique()) == [0, 1, 2, 3, 4]
    floor = values(table, "noise_floor")
    torch.testing.assert_close(floor, torch.full_like(floor, float(rho[4] + rho[5]) / 2))


def test_equal_eigenvalues_without_a_gap_identify_nothing(generator):
    energy, _ = gaussian(generator, [1.0] * 16)
    problems, keys = inverse(generator)
    table = tabled(energy, problems, keys)
    assert reason(table, "overlap", "row").startswith(FLOOR)
    assert (values(table, "response_norm")[:, 0] > 0.9).all()


def test_overlap_of_eigenvectors_with_one_eigenvalue_is_the_mean_squared_cosine_of_principal_angles(
    generator,
):
    d, k = 16, 4
    energy, Q = gaussian(generator, [1.0] * k + [0.0] * (d - k))
    problems, keys = completion(generator)
    table = tabled(
        energy, replaced(problems, x=tensor_column(problems, "y_star")), keys, vectors=k, floor=0.001
    )
    Y = tensor_column(problems, "y_star")
    bases = GeometricBases.from_reference(Y, 2)
    eye = torch.eye(d, dtype=torch.float64).expand(3, -1, -1)
    for name in BASES:
        P = torch.linalg.eigh(bases.project(name, eye)).eigenvectors[..., -bases.k_dim(name) :]
        angles = principal_angles(P, Q[:, :k].expand(3, -1, -1))
        expected = (angles.cos().square().sum(1) / k)[:, None, None].expand(-1, LEVELS - 1, -1)
        found = values(table.filter(pc.less(table["t"], 9)), "overlap", name)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        if bases.k_dim(name) == k:
            chordal = chordal_distance(P, Q[:, :k].expand(3, -1, -1)).square() / k
            torch.testing.assert_close(found[:, 0, 0], 1 - chordal, rtol=1e-7, atol=1e-9)


def test_overlaps_are_the_gap_weighted_mean_of_those_of_nested_eigenspaces(generator):
    d, k = 9, 4
    problems, keys = inverse(generator, 3, 3)
    energy = network(generator, d, d)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    table = score_table(energy, points, problems, vectors=k, floor=0.0)
    x, y, t = point_tensors(energy, points, problems)
    R = torch.eye(d) - energy.schedule.sigma[t][:, None, None] * energy.hessian(x, y, t)
    rho, E = torch.linalg.eigh(R)
    rho, E = rho.flip(-1), E.flip(-1)
    gaps = rho[:, :k] - rho[:, 1 : k + 1]
    bases = GeometricBases.from_reference(tensor_column(problems, "y_star").repeat(LEVELS, 1, 1), 1)
    for name in BASES:
        nested = [bases.project(name, E[..., :j]).square().sum((1, 2)) for j in range(1, k + 1)]
        sizes = gaps @ torch.arange(1.0, k + 1, dtype=torch.float64)
        expected = (gaps * torch.stack(nested, 1)).sum(1) / sizes
        found = values(table, "overlap", name)[..., 0].mT.flatten()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_overlaps_with_missing_entries_are_the_weight_there_and_nothing_without_any(generator):
    energy, Q = gaussian(generator, [4.0] + [0.0] * 15)
    problems, keys = completion(generator, 4)
    mask = (torch.rand(4, 4, 4, generator=generator) < 0.5).double()
    mask[0], mask[1, 0, 0] = 1, 0
    table = tabled(energy, replaced(problems, mask=mask), keys, vectors=1, floor=1e-9)
    frame = rows_of(table, "overlap", "missing")
    assert frame[frame["value"].isna()]["problem_id"].unique().tolist() == [0]
    assert frame["reason"].dropna().unique().tolist() == [f"{FLOOR}, or no entry is missing"]
    others = table.filter(pc.greater(table["problem_id"], 0))
    missing = 1 - mask[1:].flatten(1)
    expected = (missing @ Q[:, 0].square())[:, None, None].expand(-1, LEVELS, -1)
    torch.testing.assert_close(values(others, "overlap", "missing"), expected, rtol=1e-6, atol=1e-8)
    chance = (missing.mean(1))[:, None, None].expand(-1, LEVELS, -1)
    torch.testing.assert_close(values(others, "overlap_null", "missing"), chance)


def test_random_eigenvectors_have_the_stated_mean_and_spread_of_overlap_and_of_cosine(generator):
    d, count, p = 8, 4000, 3
    rho = torch.tensor([0.9, 0.5, 0.4, 0.1, 0.1, 0.0, 0.0, -0.2], dtype=torch.float64)
    Q, R = torch.linalg.qr(normal(generator, count, d, d))
    Q = Q * R.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
    sigma = QuadraticEnergy(spectrum=torch.ones(d), eigenbasis=torch.eye(d)).schedule.sigma[9]
    random = jacobian((Q * ((1 - rho) / sigma).unsqueeze(0)) @ Q.mT)
    fixed = jacobian(torch.diag((1 - rho.roll(1)) / sigma).expand(count, -1, -1))
    projected = random.vectors * (torch.arange(d) < p).double()[:, None]
    samples = {
        "overlap": (random.overlap(projected), p / d, random.overlap_deviation(p)[0]),
        "cosine": (random.cosine(fixed), *(part[0] for part in random.cosine_chance(fixed))),
    }
    for found, mean, deviation in samples.values():
        # Right code fails these once in 10⁸ tries or less.
        assert abs(found.mean() - mean) < 6 * deviation / count**0.5
        assert abs(found.std() / deviation - 1) < 0.12


@pytest.mark.parametrize(("k", "m", "d"), [(1, 1, 5), (3, 2, 9), (7, 4, 25)])
def test_spread_of_projectors_is_that_of_random_subspaces(k, m, d):
    found = k * random_trace_deviation(torch.tensor(1 / m, dtype=torch.float64), 1 / k, d)
    assert found.item() == pytest.approx(haar_deviation(k, d, m), rel=1e-12)


def test_an_isotropic_symmetric_error_has_half_its_mass_below_zero(generator):
    d = 40
    energy = QuadraticEnergy(spectrum=torch.ones(d), eigenbasis=torch.eye(d))
    sigma = energy.schedule.sigma[9]
    noise = symmetric_noise(generator, 50, d)
    eye = torch.eye(d, dtype=torch.float64)
    assert jacobian((eye - noise) / sigma).negative_mass().mean().item() == pytest.approx(0.5, abs=0.02)
    covariance = noise @ noise.mT
    assert (jacobian((eye - covariance) / sigma).negative_mass() < 1e-10).all()


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_two_networks_agree_fully_where_they_are_one_and_by_chance_where_they_are_random(floor, generator):
    problems, keys = inverse(generator, 20, 3)
    one, two = (gaussian(generator, [4.0, 2.0, 1.0] + [0.0] * 6)[0] for _ in range(2))
    points = points_table(one, problems, keys, ["q_sample"], 0)
    points = points.filter(pc.less(points["t"], 5))
    table = agreement_table(one, one, points, problems, vectors=3, floor=floor)
    assert set(table["component"].to_pylist()) == {"other model"}
    same = values(table, "overlap", "other model")
    torch.testing.assert_close(same, torch.ones_like(same))
    apart = agreement_table(one, two, points, problems, vectors=3, floor=floor)
    found, mean, deviation = (
        values(apart, name, "other model") for name in ("overlap", "overlap_null", "overlap_sd")
    )
    assert ((found - mean).abs() < 6 * deviation).all()


def test_eigenmatrices_are_unit_vectors_with_a_positive_largest_entry(generator):
    problems, keys = inverse(generator)
    energy = network(generator, 16, 16)
    found = values(tabled(energy, problems, keys, draws=2, floor=0.0), "eigenmatrix", "1")
    torch.testing.assert_close(found.norm(dim=2), torch.ones(3, LEVELS, dtype=torch.float64))
    assert (found.amax(2) == found.abs().amax(2)).all()


# Many scores around an answer


@pytest.mark.parametrize("k", [0, 1, 5, 12])
def test_normal_dimension_around_a_flat_k_plane_is_d_minus_k(k, generator):
    d = 16
    energy, _ = gaussian(generator, [400.0] * k + [0.0] * (d - k))
    problems, keys = inverse(generator, 20)
    spread = 20 * normal(generator, 20, k) @ energy.eigenbasis[:, energy.spectrum[0] < 1].mT[:k]
    x = tensor_column(problems, "x")
    problems = replaced(problems, y_star=x + spread.reshape(x.shape))
    table = tabled(energy, problems, keys, seed=int(torch.randint(2**31, (1,), generator=generator)))
    assert (values(table, "normal_dimension") == d - k).all()
    assert (values(table, "normal_gap") > 0.2).all()


# The table as a whole


def test_turning_rows_and_columns_turns_everything_and_changes_nothing(generator):
    n, d = 4, 16
    problems, keys = completion(generator)
    energy = network(generator, d, d)
    Q, W = (haar_orthogonal(n, generator) for _ in range(2))
    turn = torch.kron(Q, W)
    turned = CallableEnergy(lambda x, y, t: energy.model.energy(x, y @ turn, t), d, d)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    problems = problems.drop_columns(["mask"])

    def moved(table, *names):
        return replaced(table, **{name: Q @ tensor_column(table, name) @ W.mT for name in names})

    table = score_table(energy, points, problems, floor=0.0)
    names = [name for name in ("y_star", "signal") if name in problems.column_names]
    other = score_table(turned, moved(points, "y"), moved(problems, *names), floor=0.0)
    for name in ("column", "row", "core", "tangent", "outer"):
        for metric in ("overlap", "overlap_shuffled", "overlap_sd"):
            torch.testing.assert_close(
                values(other, metric, name), values(table, metric, name), rtol=1e-5, atol=1e-7
            )
    for component in ("", "shuffled pair"):
        found, expected = (values(part, "diagonal_share", component) for part in (other, table))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(values(other, "negative_mass"), values(table, "negative_mass"), **EXACT)


def test_an_offset_of_the_energy_changes_nothing(generator):
    problems, keys = inverse(generator)
    energy = network(generator, 16, 16)
    shifted = CallableEnergy(lambda x, y, t: energy.model.energy(x, y, t) + x.sum(-1) * (t + 1), 16, 16)
    plain = CallableEnergy(energy.model.energy, 16, 16)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    found, expected = (score_table(one, points, problems, floor=0.0) for one in (shifted, plain))
    assert found.drop_columns(["value"]).equals(expected.drop_columns(["value"]))
    pair = (tensor_column(table, "value") for table in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_tables_do_not_depend_on_how_points_are_cut_into_chunks_and_blocks(generator):
    problems, keys = completion(generator)
    energy = network(generator, 16, 16)
    points = points_table(energy, problems, keys, ["q_sample", "trajectory"], 0, 2)
    options = {"floor": 0.0, "oracle": gaussian(generator, torch.arange(16.0))[0], "seed": 3}
    order = ["metric", "component", "problem_id", "t", "point_kind", "draw", "index"]
    order = [(name, "ascending") for name in order]
    whole = score_table(energy, points, problems, **options).sort_by(order)
    cut = score_table(energy, points, problems, chunk=7, **options).sort_by(order)
    parts = [score_table(energy, points.slice(i, 50), problems, **options) for i in range(0, len(points), 50)]
    for table in (cut, pa.concat_tables(parts).sort_by(order)):
        assert table.drop_columns(["value"]).equals(whole.drop_columns(["value"]))
        pair = (tensor_column(part, "value") for part in (table, whole))
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_the_shuffled_pair_is_the_next_problems_answer(generator):
    problems, keys = completion(generator, 3)
    energy, _ = gaussian(generator, [4.0] + [0.0] * 15)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    rolled = {
        name: tensor_column(problems, name).roll(-1, 0)
        for name in ("y_star", "signal", "mask")
        if name in problems.column_names
    }
    table = score_table(energy, points, problems, floor=1e-9)
    other = score_table(energy, points, replaced(problems, **rolled), floor=1e-9)
    for name in (*BASES, "missing"):
        found, expected = values(table, "overlap_shuffled", name), values(other, "overlap", name)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    found, expected = values(table, "diagonal_share", "shuffled pair"), values(other, "diagonal_share")
    torch.testing.assert_close(found, expected, **EXACT)


def test_only_a_problem_without_a_gap_or_a_finite_hessian_loses_its_overlaps(generator):
    problems, keys = completion(generator, 4)
    Y = tensor_column(problems, "y_star")
    Y[1] = torch.eye(4)
    x = tensor_column(problems, "x")
    x[2] = torch.nan
    problems = replaced(
        problems, y_star=Y, x=x, **({"signal": Y} if "signal" in problems.column_names else {})
    )
    energy = network(generator, 16, 16)
    table = tabled(energy, problems, keys, floor=0.0)
    for metric, component, lost in [
        ("overlap", "tangent", [1, 2]),
        ("overlap", "outer", [1, 2]),
        ("overlap", "symmetric", [2]),
        ("overlap_shuffled", "tangent", [0, 2]),
        ("overlap_null", "tangent", [1]),
        ("diagonal_share", "", [1, 2]),
        ("response_norm", "", [2]),
        ("normal_dimension", "", [2]),
        ("eigenmatrix", "1", [2]),
    ]:
        frame = rows_of(table, metric, component)
        assert frame[frame["value"].isna()]["problem_id"].unique().tolist() == lost, (metric, component)
    assert reason(table, "overlap", "posterior") == "no computable Bayes-optimal reference"


def test_normal_dimensions_and_pictures_belong_to_the_first_q_sample_alone(generator):
    problems, keys = inverse(generator)
    energy = network(generator, 16, 16)
    table = tabled(energy, problems, keys, draws=2, kinds=("q_sample", "trajectory")).to_pandas()
    for metric, levels in {"normal_dimension": [0], "eigenmatrix": list(range(LEVELS))}.items():
        rows = table[table["metric"] == metric]
        assert sorted(rows["t"].unique()) == levels
        assert set(rows["draw"]) == {0}
        assert set(rows["point_kind"]) == {"q_sample"}
    walked = tabled(energy, problems, keys, kinds=("trajectory",))
    assert not {"normal_dimension", "eigenmatrix"} & set(walked["metric"].to_pylist())


def test_only_the_first_problems_are_pictured_however_points_are_cut(generator):
    problems, keys = inverse(generator, 10)
    energy = network(generator, 16, 16)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    for part in (points, points.filter(pc.greater(points["problem_id"], 4))):
        table = score_table(energy, part, problems, floor=0.0)
        pictured = table.filter(pc.equal(table["metric"], "eigenmatrix"))["problem_id"].unique().to_pylist()
        assert sorted(pictured) == sorted(id for id in part["problem_id"].unique().to_pylist() if id < 8)


def test_bad_settings_and_points_are_refused_by_name(generator):
    problems, keys = inverse(generator)
    energy = network(generator, 16, 16)
    points = points_table(energy, problems, keys, ["q_sample"], 0)
    with pytest.raises(TableError, match="the points table is empty; give at least one point"):
        score_table(energy, points.slice(0, 0), problems)
    other = points_table(energy, problems, keys | {"task": "addition"}, ["q_sample"], 0)
    with pytest.raises(TableError, match="found points of inverse and addition; give those of one task"):
        score_table(energy, pa.concat_tables([points, other]), problems)
    for vectors in (0, 16):
        with pytest.raises(ConfigError, match=rf"vectors: found {vectors}, allowed 1 … d − 1 = 15"):
            score_table(energy, points, problems, vectors=vectors)
        with pytest.raises(ConfigError, match=rf"vectors: found {vectors}, allowed 1 … d − 1 = 15"):
            agreement_table(energy, energy, points, problems, vectors=vectors)
    with pytest.raises(ConfigError, match=r"rank: found 5, allowed 1 … min\(n, m\) = 4; lower it"):
        score_table(energy, points, problems, rank=5)
    with pytest.raises(ConfigError, match="scores: found 3 per dimension; 4 are needed, raise it"):
        score_table(energy, points, problems, scores=3)
    with pytest.raises(ConfigError, match="not in the problems table"):
        score_table(energy, points, problems.slice(1))
