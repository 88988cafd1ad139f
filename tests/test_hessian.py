"""EXP-001 on planted Hessians: every statistic against its closed form, every null against its cause."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from iredinterp.analyses.hessian import HessianAnalyzer, level_overlap, spectrum_tables
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError, EngineError, TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.points import points_table
from iredinterp.tables import read_table, tensor_array, tensor_column, write_table

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

N = 4
D = N * N
SCHEDULE = cosine_schedule(3)
KEYS = {"model": "planted", "condition": "trained", "task": "inverse", "n": N, "seed": 0, "weights": "ema"}


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def haar(generator, *shape):
    Q, R = torch.linalg.qr(normal(generator, *shape))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def planted(scaled, dimension=D, offset=0.0):
    """An energy whose σ_tH is x read as a d×d matrix, or entry t of `scaled`, (K, d, d), if given."""

    def function(x, y, t):
        level = (t.unsqueeze(-1) == torch.arange(SCHEDULE.levels)).double()
        shape = (-1, dimension, dimension)
        matrix = x.reshape(shape) if scaled is None else (level @ scaled.flatten(1)).reshape(shape)
        quadratic = torch.einsum("bi,bij,bj->b", y, matrix, y) / 2
        shift = offset * (1 + level @ torch.arange(3.0).double()) * x.sum(-1)
        return quadratic * (level @ (1 / SCHEDULE.sigma)) + shift

    return CallableEnergy(function, dimension**2, dimension, SCHEDULE)


def problems_of(scaled, Y, **more):
    columns = {"x": tensor_array(scaled), "y_star": tensor_array(Y)} | more
    return pa.table({"problem_id": pa.array(range(10, 10 + len(Y)), pa.int32())} | columns)


def symmetric(Q, eigenvalues):
    return Q @ torch.diag_embed(eigenvalues.expand(Q.shape[:-1])) @ Q.mT


def random_problems(generator, count=3, shape=(N, N), rank=N):
    d = math.prod(shape)
    scaled = symmetric(haar(generator, count, d, d), torch.linspace(0.3, 1.1, d, dtype=torch.float64))
    Y = normal(generator, count, shape[0], rank) @ normal(generator, count, rank, shape[1])
    return problems_of(scaled, Y)


def tables_of(energy, problems, kinds=("q_sample",), keys=KEYS, seed=0, **options):
    points = points_table(energy, problems, keys, kinds, seed)
    return spectrum_tables(energy, points, problems, **{"vectors": 3, "rank": 1} | options)


def values(metrics, name, component=""):
    frame = metrics.to_pandas().query("metric == @name and component == @component")
    assert len(frame), f"no rows of {name} {component}"
    return frame.sort_values(["problem_id", "t"])


def value(metrics, name, component=""):
    frame = values(metrics, name, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    return torch.tensor(frame["value"].to_numpy())


def reason(metrics, name, component=""):
    frame = values(metrics, name, component)
    assert frame["value"].isna().all(), f"{name} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def projector(basis, Y, rank):
    """P as a d×d matrix from Kronecker products, for row-major flattening."""
    U, _, Vh = np.linalg.svd(Y.numpy())
    U, V = U[:, :rank], Vh[:rank].T
    I_n, I_m = np.eye(Y.shape[0]), np.eye(Y.shape[1])
    column, row = np.kron(U @ U.T, I_m), np.kron(I_n, V @ V.T)
    if basis == "outer":
        vectors = np.stack([np.kron(U[:, i], V[:, i]) for i in range(rank)], axis=1)
        return torch.tensor(vectors @ vectors.T)
    if basis == "symmetric":
        swap = np.eye(Y.numel()).reshape(*Y.shape, -1).transpose(1, 0, 2).reshape(Y.numel(), -1)
        return torch.tensor((np.eye(Y.numel()) + swap) / 2)
    products = {"column": column, "row": row, "core": column @ row, "tangent": column + row - column @ row}
    return torch.tensor(products[basis])


@pytest.fixture
def eigenvalues(generator):
    """σ_tλ of an indefinite Hessian, ascending."""
    positive = 0.1 + 1.5 * torch.rand(D - 1, generator=generator, dtype=torch.float64)
    return torch.cat([torch.tensor([-0.2]), positive]).sort().values


@pytest.fixture
def one_spectrum(generator, eigenvalues):
    scaled = symmetric(haar(generator, 2, D, D), eigenvalues)
    return tables_of(planted(None), problems_of(scaled, normal(generator, 2, N, N)))


def test_every_metric_of_a_known_spectrum_equals_its_closed_form(one_spectrum, eigenvalues):
    _, metrics, _ = one_spectrum
    scaled, size = eigenvalues.numpy(), np.sort(np.abs(eigenvalues.numpy()))
    quantile = np.quantile(size, [0.05, 0.95])
    expected = {
        "scaled_min": scaled[0],
        "scaled_max": scaled[-1],
        "scaled_median": np.median(scaled),
        "scaled_mean": scaled.mean(),
        "zero_tolerance": 10 * np.finfo(float).eps * math.sqrt(D) * size[-1],
        "inertia_positive": D - 1,
        "inertia_zero": 0,
        "inertia_negative": 1,
        "negative_index": 1 / D,
        "condition_number": size[-1] / size[0],
        "quantile_ratio": quantile[1] / quantile[0],
        "isotropy_defect": np.linalg.norm(scaled - 1) / math.sqrt(D),
    }
    for name, number in expected.items():
        assert value(metrics, name).numpy() == pytest.approx(number, rel=1e-10), name
    for component, spectrum in {"H": scaled, "I-σH": 1 - scaled}.items():
        p = np.abs(spectrum) / np.abs(spectrum).sum()
        steps = -np.diff(np.log(np.sort(np.abs(spectrum))[::-1]))
        expected = {
            "participation_ratio": 1 / np.square(p).sum(),
            "effective_rank": math.exp(-(p * np.log(p)).sum()),
            "stable_rank": np.square(spectrum).sum() / np.square(spectrum).max(),
            "log_gap": steps.max(),
            "gap_position": steps.argmax() + 1,
        }
        for name, number in expected.items():
            found = value(metrics, name, component).numpy()
            assert found == pytest.approx(number, rel=1e-8), (name, component)
    steps = 2 * SCHEDULE.opt_step_size / SCHEDULE.sigma * scaled[-1]
    torch.testing.assert_close(value(metrics, "stability"), steps.repeat(2))
    gaps = {"low": scaled[3] - scaled[2], "high": scaled[-3] - scaled[-4]}
    for end, gap in gaps.items():
        assert value(metrics, "end_gap", end).numpy() == pytest.approx(gap / size[-1], rel=1e-8)


def test_spectra_table_holds_the_eigenpairs_of_the_hessian(generator, eigenvalues):
    scaled = symmetric(haar(generator, 2, D, D), eigenvalues)
    problems = problems_of(scaled, normal(generator, 2, N, N))
    spectra, _, _ = tables_of(planted(None), problems)
    t = torch.tensor(spectra["t"].to_numpy())
    H = scaled[torch.tensor(spectra["problem_id"].to_numpy()) - 10] / SCHEDULE.sigma[t][:, None, None]
    found = tensor_column(spectra, "eigenvalues")
    torch.testing.assert_close(found * SCHEDULE.sigma[t].unsqueeze(-1), eigenvalues.expand(len(t), -1))
    torch.testing.assert_close(tensor_column(spectra, "scaled"), eigenvalues.expand(len(t), -1))
    for end, part in {"low": found[:, :3], "high": found[:, -3:]}.items():
        V = tensor_column(spectra, end)
        assert V.dtype == torch.float64
        torch.testing.assert_close(H @ V, V * part.unsqueeze(1))


def test_optimal_hessian_is_isotropic_and_has_no_directions(generator):
    identity = torch.eye(D, dtype=torch.float64).expand(2, D, D)
    _, metrics, tracking = tables_of(planted(None), problems_of(identity, normal(generator, 2, N, N)))
    torch.testing.assert_close(value(metrics, "isotropy_defect"), torch.zeros(6).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(value(metrics, "condition_number"), torch.ones(6).double())
    torch.testing.assert_close(value(metrics, "participation_ratio", "H"), torch.full((6,), D).double())
    for name in ("participation_ratio", "effective_rank", "stable_rank"):
        assert reason(metrics, name, "I-σH") == "I-σH is zero to rounding"
    assert "all equal to rounding" in reason(metrics, "gap_position", "H")
    sizes = {"column": N, "row": N, "core": 1, "tangent": 2 * N - 1, "outer": 1, "symmetric": 10}
    for basis, k in sizes.items():
        why = reason(metrics, "alignment", f"{basis}/low")
        assert why == "eigenspace not separated: relative gap below 1e-08 or below rounding"
        assert "not separated" in reason(metrics, "alignment_excess", f"{basis}/high")
        assert value(metrics, "curvature_share", basis).numpy() == pytest.approx(k / D, rel=1e-12)
        assert "I-σH is zero to rounding" in reason(metrics, "response_share", basis)
        assert reason(metrics, "response_square_share", basis) == "I-σH is zero to rounding"
    assert "not separated" in reason(tracking, "level_overlap", "low")


def test_eigenspaces_that_do_not_move_overlap_fully_at_angle_zero(generator):
    problems = random_problems(generator)
    _, _, tracking = tables_of(planted(None), problems)
    for end in ("low", "high"):
        overlap = value(tracking, "level_overlap", end)
        torch.testing.assert_close(overlap, torch.ones(9).double())
        assert (value(tracking, "largest_angle", end) < 1e-7).all()
        assert value(tracking, "level_overlap_chance", end).unique().tolist() == [3 / D]
    pairs = tracking.select(["t", "t2"]).to_pandas().drop_duplicates()
    assert set(map(tuple, pairs.to_numpy().tolist())) == {(2, 1), (2, 0), (1, 0)}


def test_a_plane_rotation_between_levels_shows_as_its_angle(generator):
    Q, angle = haar(generator, D, D), 0.3 + 0.5 * torch.rand(1, generator=generator).item()
    eigenvalues = torch.linspace(0.5, 2, D, dtype=torch.float64)

    def turned(by):
        R = torch.eye(D, dtype=torch.float64)
        # The plane of the softest and the stiffest direction: both ends turn by the same angle.
        R[0, 0] = R[-1, -1] = math.cos(by)
        R[0, -1], R[-1, 0] = -math.sin(by), math.sin(by)
        return symmetric(Q @ R, eigenvalues)

    energy = planted(torch.stack([turned(0), turned(angle), turned(0)]))
    _, _, tracking = tables_of(energy, random_problems(generator, 2))
    frame = tracking.to_pandas().set_index(["metric", "component", "t", "t2"])["value"]
    for end in ("low", "high"):
        for pair in ((2, 1), (1, 0)):
            assert frame["largest_angle", end, *pair].to_numpy() == pytest.approx(angle, rel=1e-9)
            assert frame["median_angle", end, *pair].to_numpy() == pytest.approx(0, abs=1e-7)
            overlap = (2 + math.cos(angle) ** 2) / 3
            assert frame["level_overlap", end, *pair].to_numpy() == pytest.approx(overlap)
        assert frame["level_overlap", end, 2, 0].to_numpy() == pytest.approx(1)


def test_overlap_pairs_each_problem_and_draw_with_itself_only(generator):
    problems = random_problems(generator)
    energy = planted(None)
    points = points_table(energy, problems, KEYS, ["q_sample"], 0, draws=2)
    spectra, _, tracking = spectrum_tables(energy, points, problems, vectors=3, rank=1)
    shuffled = spectra.take(pa.array(torch.randperm(len(spectra), generator=generator).numpy()))
    # Different problems have unrelated eigenvectors: any wrong pairing would show.
    for table in (tracking, level_overlap(shuffled)):
        assert len(values(table, "level_overlap", "low")) == 3 * 2 * 3
        torch.testing.assert_close(value(table, "level_overlap", "low"), torch.ones(18).double())
    without = spectra.filter(pa.array(np.arange(len(spectra)) != 0))
    assert len(values(level_overlap(without), "level_overlap", "low")) == 18 - 2
    one_level = spectra.filter(pa.compute.equal(spectra["t"], 1))
    assert level_overlap(one_level).num_rows == 0


def test_offset_of_the_energy_changes_nothing(generator):
    problems = random_problems(generator)
    plain, shifted = (tables_of(planted(None, offset=c), problems) for c in (0.0, 100.0))
    for before, after in zip(plain, shifted, strict=True):
        assert before.schema == after.schema
        name = "value" if "value" in before.column_names else "scaled"
        torch.testing.assert_close(tensor_column(before, name), tensor_column(after, name), equal_nan=True)


def test_chunk_size_changes_nothing(generator):
    energy = MLPEnergy(EnergyMLP.random(D, D, 32, generator).to(torch.float64))
    Y = normal(generator, 5, N, N)
    problems = problems_of(normal(generator, 5, N, N), Y)
    whole, pieces = (tables_of(energy, problems, chunk=chunk) for chunk in (64, 7))
    for one, other in zip(whole[1:], pieces[1:], strict=True):
        assert one.drop_columns(["value"]).equals(other.drop_columns(["value"]))
        torch.testing.assert_close(
            tensor_column(one, "value"), tensor_column(other, "value"), rtol=1e-7, atol=1e-9, equal_nan=True
        )


def test_gauss_newton_share_is_that_of_the_jacobian_of_the_outputs(generator):
    model = EnergyMLP.random(D, D, 32, generator).to(torch.float64)
    problems = problems_of(normal(generator, 2, N, N), normal(generator, 2, N, N))
    energy = MLPEnergy(model)
    points = points_table(energy, problems, KEYS, ["q_sample"], 0)
    _, metrics, _ = spectrum_tables(energy, points, problems, vectors=3, rank=1, engine="autograd")
    points = points.sort_by([("problem_id", "ascending"), ("t", "ascending")])
    y = tensor_column(points, "y").flatten(1)
    x = tensor_column(problems, "x").flatten(1)[points["problem_id"].to_numpy() - 10]
    t = torch.tensor(points["t"].to_numpy())
    share = []
    for index in range(len(y)):
        here = slice(index, index + 1)
        output = lambda v, s=here: model.activations(x[s], v[None], t[s]).output[0]  # noqa: E731
        J = torch.autograd.functional.jacobian(output, y[index])
        H = torch.autograd.functional.hessian(lambda v, f=output: f(v).square().sum(), y[index])
        share.append((2 * J.T @ J).norm() / H.norm())
    torch.testing.assert_close(value(metrics, "gauss_newton_share"), torch.stack(share))
    assert (value(metrics, "symmetry_defect") < 1e-12).all()


def test_undefined_quantities_say_why(one_spectrum):
    _, metrics, _ = one_spectrum
    assert reason(metrics, "gauss_newton_share") == "this energy has no Gauss–Newton part"
    assert reason(metrics, "symmetry_defect") == "symmetric by construction"
    assert (
        reason(metrics, "alignment_mismatched", "symmetric/low") == "the basis is the same for every problem"
    )


def test_singular_hessian_has_no_condition_number(generator):
    zeros = torch.tensor([0.0] * 4 + [1.0 + i for i in range(D - 4)], dtype=torch.float64)
    problems = problems_of(symmetric(haar(generator, 2, D, D), zeros), normal(generator, 2, N, N))
    _, metrics, _ = tables_of(planted(None), problems)
    assert reason(metrics, "condition_number") == "smallest |λ| is below the zero tolerance"
    assert reason(metrics, "quantile_ratio") == "5 % quantile of |λ| is below the zero tolerance"
    assert value(metrics, "inertia_zero").unique().tolist() == [4]


def test_rank_defaults_to_that_of_the_problems_or_to_one(generator):
    problems = random_problems(generator, 2)
    given, default = (
        tables_of(planted(None), problems, keys=KEYS | {"rank": 2}, rank=q)[1] for q in (2, None)
    )
    assert given.equals(default)
    given, default = (tables_of(planted(None), problems, rank=q)[1] for q in (1, None))
    assert given.equals(default)
    mixed = [points_table(planted(None), problems, KEYS | {"rank": q}, ["q_sample"], 0) for q in (1, 2)]
    with pytest.raises(ConfigError, match=r"points of several ranks.*give a number"):
        spectrum_tables(planted(None), pa.concat_tables(mixed), problems, vectors=3)


def test_incomplete_engine_gives_extremes_and_reasons(generator):
    problems = random_problems(generator)
    spectra, metrics, tracking = tables_of(planted(None), problems, engine="lanczos", count=2)
    assert tensor_column(spectra, "eigenvalues").shape == (9, 4)
    assert (tensor_column(spectra, "residual") < 1e-6).all()
    assert "low" not in spectra.column_names
    torch.testing.assert_close(value(metrics, "scaled_min"), torch.full((9,), 0.3).double())
    torch.testing.assert_close(value(metrics, "scaled_max"), torch.full((9,), 1.1).double())
    why = f"engine lanczos returns 4 of {D} eigenvalues"
    for name, component in [
        ("condition_number", ""),
        ("inertia_negative", ""),
        ("isotropy_defect", ""),
        ("participation_ratio", "H"),
        ("end_gap", "low"),
        ("gauss_newton_share", ""),
        ("symmetry_defect", ""),
        ("curvature_share", "tangent"),
        ("response_share", "tangent"),
        ("alignment", "tangent/high"),
        ("alignment_mismatched", "tangent/high"),
    ]:
        assert reason(metrics, name, component) == why
    assert reason(tracking, "level_overlap", "low") == why
    complete = tables_of(planted(None), random_problems(generator), engine="lanczos", count=D)[1]
    assert value(complete, "condition_number").numpy() == pytest.approx(1.1 / 0.3)
    assert reason(complete, "alignment", "row/low") == "engine lanczos does not form the Hessian"


def test_eigenvalues_of_largest_magnitude_fix_only_the_end_they_reach(generator):
    pytest.importorskip("pyhessian")
    problems = random_problems(generator, 1)
    _, metrics, _ = tables_of(planted(None), problems, engine="pyhessian", count=2, tol=1e-8, max_iter=1000)
    assert value(metrics, "scaled_max").numpy() == pytest.approx(1.1, rel=1e-3)
    assert reason(metrics, "scaled_min") == f"engine pyhessian returns 2 of {D} eigenvalues"


def test_without_eigenvectors_shares_remain(generator):
    spectra, metrics, tracking = tables_of(planted(None), random_problems(generator), vectors=0)
    assert "low" not in spectra.column_names
    assert value(metrics, "curvature_share", "row").shape == (9,)
    for table, name, component in [
        (metrics, "alignment", "row/low"),
        (metrics, "alignment_chance_sd", "row/low"),
        (metrics, "end_gap", "low"),
        (tracking, "level_overlap", "low"),
    ]:
        assert reason(table, name, component) == "no eigenvectors were asked for"


def test_tables_survive_writing_and_reading(generator, tmp_path):
    tables = tables_of(planted(None), random_problems(generator))
    for index, table in enumerate(tables):
        write_table(table, tmp_path / f"{index}.parquet", {})
    spectra, _, tracking = (read_table(tmp_path / f"{index}.parquet") for index in range(3))
    again = level_overlap(spectra)
    for end in ("low", "high"):
        torch.testing.assert_close(value(again, "largest_angle", end), value(tracking, "largest_angle", end))


def test_converged_means_that_both_points_are(generator):
    problems = random_problems(generator, 1)
    points = points_table(planted(None), problems, KEYS, ["minimum"], 0)
    flags = pa.array([level == 2 for level in points["t"].to_pylist()])
    points = points.set_column(points.column_names.index("converged"), "converged", flags)
    _, _, tracking = spectrum_tables(planted(None), points, problems, vectors=3, rank=1)
    assert not any(tracking["converged"].to_pylist())


def test_analyzer_gives_the_metrics_of_the_table(generator):
    problems = random_problems(generator)
    energy = planted(None)
    points = points_table(energy, problems, KEYS, ["q_sample"], 0)
    points = points.filter(pa.compute.equal(points["t"], 1))
    _, metrics, _ = spectrum_tables(energy, points, problems, vectors=3, rank=1)
    x, y = tensor_column(problems, "x").flatten(1), tensor_column(points, "y").flatten(1)
    analyzer = HessianAnalyzer(energy)
    found = analyzer.metrics(x, y, 1)
    torch.testing.assert_close(found["scaled_max"], value(metrics, "scaled_max"))
    torch.testing.assert_close(found["effective_rank I-σH"], value(metrics, "effective_rank", "I-σH"))
    assert analyzer.spectra(x, y, 1, vectors=2).low.shape == (3, D, 2)
    assert HessianAnalyzer(energy, "lanczos").metrics(x, y, 1, count=2)["condition_number"].isnan().all()


def test_bad_requests_are_named(generator):
    problems = random_problems(generator, 2)
    energy = planted(None)
    with pytest.raises(ConfigError, match=f"vectors: found {D}, allowed 0 … d − 1 = {D - 1}"):
        tables_of(energy, problems, vectors=D)
    with pytest.raises(ConfigError, match="rank: found 5, allowed 1 … min"):
        tables_of(energy, problems, rank=5)
    with pytest.raises(EngineError, match="unknown engine 'dense'"):
        tables_of(energy, problems, engine="dense")
    points = points_table(energy, problems, KEYS, ["q_sample"], 0)
    with pytest.raises(TableError, match="points table is empty"):
        spectrum_tables(energy, points.slice(0, 0), problems, rank=1)
    with pytest.raises(TableError, match="two spectra have the same keys"):
        spectrum_tables(energy, pa.concat_tables([points, points]), problems, vectors=3, rank=1)


def test_distance_to_the_optimum_is_that_of_the_planted_matrices(generator):
    problems = random_problems(generator, 3)
    scaled = tensor_column(problems, "x")
    optimal = symmetric(haar(generator, 3, D, D), torch.linspace(0.5, 1, 3, dtype=torch.float64)[:, None])
    oracle = planted(optimal)
    metrics = tables_of(planted(None), problems, oracle=oracle)[1]
    frame = values(metrics, "oracle_distance")
    for row, matrix in enumerate(scaled):
        for t in range(3):
            expected = np.linalg.norm(matrix - optimal[t]) / np.linalg.norm(optimal[t])
            found = frame[(frame["problem_id"] == row + 10) & (frame["t"] == t)]
            assert found["value"].item() == pytest.approx(expected, rel=1e-12)
            assert found["stderr"].item() == 0
    y = tensor_column(points_table(planted(None), problems, KEYS, ["q_sample"], 0), "y").flatten(1)
    t = torch.arange(3).repeat_interleave(3)
    apart = (scaled.repeat(3, 1, 1) - optimal[t]) / SCHEDULE.sigma[t, None, None] @ y.unsqueeze(-1)
    found = values(metrics, "oracle_gradient_distance").sort_values(["t", "problem_id"])["value"].to_numpy()
    np.testing.assert_allclose(found, apart.squeeze(-1).norm(dim=1) / math.sqrt(D), rtol=1e-10)


def test_without_a_reference_the_distance_says_so(one_spectrum):
    for name in ("oracle_distance", "oracle_gradient_distance"):
        assert reason(one_spectrum[1], name) == "no computable Bayes-optimal reference"


def test_the_error_of_a_sampled_reference_goes_with_the_distance(generator):
    class Sampled(CallableEnergy):
        def hessian_and_error(self, x, y, t):
            optimal = self.hessian(x, y, t)
            return optimal, 0.25 * torch.linalg.matrix_norm(optimal)

    exact = planted(None)
    oracle = Sampled(exact.function, exact.dim_x, exact.dim_y, exact.schedule)
    metrics = tables_of(exact, random_problems(generator), oracle=oracle)[1]
    np.testing.assert_allclose(values(metrics, "oracle_distance")["stderr"], 0.25, rtol=1e-12)
    assert values(metrics, "oracle_gradient_distance")["stderr"].isna().all()
