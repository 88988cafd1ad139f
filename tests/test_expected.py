"""What is to be found on a planted network: the formula against the analyses run on the network itself."""

import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.annealing import annealing_table
from iredinterp.analyses.grassmann import grassmann_tables
from iredinterp.analyses.tangent import tangent_table
from iredinterp.energy import load_energy
from iredinterp.expected import (
    OF_SPECTRA,
    arms_of,
    coarse_first_exponents,
    condition_number,
    curvature_ratio,
    expected_table,
    tangent_projectors,
)
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import model_keys, points_table, problems_table
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.planted import planted, read_planted_truth, save_planted

SPECS = {
    "inverse": ProblemSpec("inverse", 4),
    "completion": ProblemSpec("completion", 5, rank=2),
    "noisy completion": ProblemSpec("completion", 4),
    "addition": ProblemSpec("addition", 4),
}
COUNT, LEVELS = 3, 10
DECOYS = {"dead_end": 2, "cancelling": 2, "redundant": 2, "saturated": 1, "gated": 2}
CLOSE = {"rtol": 1e-9, "atol": 0}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def found_in(table, metric, kind, component=""):
    """The rows of a metric, by level and problem."""
    chosen = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["point_kind"], kind))
    rows = table.filter(pc.and_(chosen, pc.equal(table["component"], component)))
    assert rows.num_rows == LEVELS * COUNT
    return rows.sort_by([("t", "ascending"), ("problem_id", "ascending")])


def assert_recovered(table, expected, metric, kind):
    found, truth = (found_in(rows, metric, kind) for rows in (table, expected))
    names = [name for name in truth.column_names if name not in ("value", "reason", "stderr")]
    assert found.select(names).equals(truth.select(names))
    torch.testing.assert_close(*(tensor_column(rows, "value") for rows in (found, truth)), **CLOSE)


@pytest.fixture(params=SPECS)
def case(request, seed, generator, tmp_path):
    """A planted network from its file, its truth, problems it is analysed on, and the keys of both."""
    spec = SPECS[request.param]
    path = tmp_path / "planted.safetensors"
    save_planted(planted(spec.dim_x, spec.dim_y, seed, decoys=DECOYS), path)
    energy = load_energy(path)
    problems = problems_table(draw_problems(spec, COUNT, generator))
    return energy, read_planted_truth(path), problems, model_keys("planted", energy, spec)


def test_both_analyses_recover_the_planted_ratios_from_the_network(case, seed):
    energy, truth, problems, keys = case
    grassmann = {"rank": None, "draws": 3, "seed": seed}
    expected = expected_table(truth, problems, keys, {"rank": None}, grassmann, {"seed": seed})
    points = points_table(energy, problems, keys, ["q_sample"], seed)
    tangent = tangent_table(energy, points, problems)
    metrics, *_ = grassmann_tables(energy, problems, keys, perturbations=4, steps=3, **grassmann)
    assert_recovered(metrics, expected, "energy_ratio", "perturbed")
    ratios = tensor_column(found_in(expected, "energy_ratio", "perturbed"), "value")
    assert ratios.isfinite().all()
    assert (ratios - 1).abs().max() > 0.01
    if keys["task"] == "addition":
        for table in (tangent, expected):
            rows = found_in(table, "curvature_ratio", "q_sample")
            assert rows["value"].null_count == rows.num_rows
            assert set(rows["reason"].to_pylist()) == {"answers of addition lie on no manifold"}
    else:
        assert_recovered(tangent, expected, "curvature_ratio", "q_sample")


@pytest.mark.parametrize("component", ["", "relative"])
def test_the_ways_of_the_sampler_have_the_planted_exponents(case, component, seed):
    energy, truth, problems, keys = case
    settings = {"rank": None}
    expected = expected_table(
        truth, problems, keys, settings, settings | {"draws": 1, "seed": 0}, {"seed": seed}
    )
    found = annealing_table(energy, problems, keys, runs=4, krylov=2, seed=seed)
    found, planted_ones = (
        tensor_column(found_in(table, "coarse_first_exponent", "trajectory", component), "value")
        for table in (found, expected)
    )
    assert planted_ones.isfinite().all()
    torch.testing.assert_close(found, planted_ones, rtol=0, atol=1e-4)


def test_an_exponent_is_that_of_the_errors_and_undefined_along_one_direction(generator, seed):
    Y = normal(generator, 2, 4, 4)
    U, s, Vh = torch.linalg.svd(Y)
    exponents = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    wrong = torch.stack([Y + 0.01 * (U * s[:, None, :] ** -power) @ Vh for power in exponents])
    found = coarse_first_exponents(wrong, Y)
    torch.testing.assert_close(found, exponents[:, None].expand(-1, 2), rtol=0, atol=1e-6)
    Y[1] = torch.outer(*normal(generator, 2, 4))
    found = coarse_first_exponents(wrong, Y)
    assert found.isnan().sum(0).tolist() == [0, 3]


def test_a_rank_given_to_the_analyses_is_that_of_their_truth(case, seed):
    energy, truth, problems, keys = case
    grassmann = {"rank": 3, "draws": 1, "seed": seed}
    if keys["rank"] == 2:
        grassmann["rank"] = 1
    expected = expected_table(truth, problems, keys, {"rank": 1}, grassmann, {"seed": seed})
    metrics, *_ = grassmann_tables(energy, problems, keys, perturbations=4, steps=3, **grassmann)
    assert_recovered(metrics, expected, "energy_ratio", "perturbed")
    if keys["task"] == "completion":
        points = points_table(energy, problems, keys, ["q_sample"], seed)
        tangent = tangent_table(energy, points, problems, rank=1)
        assert_recovered(tangent, expected, "curvature_ratio", "q_sample")


def test_expected_condition_number_is_that_of_the_hessian_of_the_network(case, seed, generator):
    energy, truth, problems, keys = case
    settings = {"rank": None}
    expected = expected_table(
        truth, problems, keys, settings, settings | {"draws": 1, "seed": seed}, {"seed": 0}
    )
    x, y = normal(generator, LEVELS, energy.dim_x), normal(generator, LEVELS, energy.dim_y)
    eigenvalues = torch.linalg.eigvalsh(energy.hessian(x, y, torch.arange(LEVELS)))
    ratios = (eigenvalues[:, -1] / eigenvalues[:, 0]).repeat_interleave(COUNT)
    found = tensor_column(found_in(expected, "condition_number", "q_sample"), "value")
    torch.testing.assert_close(found, ratios, **CLOSE)


def test_an_answer_without_a_gap_has_no_energy_ratio_and_fails_no_other(generator, seed):
    problems = problems_table(draw_problems(SPECS["completion"], COUNT, generator))
    signal = tensor_column(problems, "signal")
    signal[1] = torch.eye(5)
    column = problems.column_names.index("signal")
    problems = problems.set_column(column, "signal", tensor_array(signal))
    keys, rank = {"task": "completion", "rank": 2}, {"rank": None}
    truth = planted(25, 25, seed).truth
    table = expected_table(truth, problems, keys, rank, rank | {"draws": 1, "seed": seed}, {"seed": 0})
    rows = found_in(table, "energy_ratio", "perturbed").to_pandas()
    bad = rows["problem_id"] == 1
    assert rows[bad]["value"].isna().all()
    assert rows[bad]["reason"].unique().tolist() == ["the answer has no singular gap at this rank"]
    assert rows[~bad]["value"].notna().all()


def test_condition_number_is_the_largest_over_the_smallest_magnitude(generator):
    spectra = normal(generator, 4, 6)
    size = spectra.abs().sort(-1).values
    assert condition_number(spectra.numpy()) == pytest.approx((size[:, -1] / size[:, 0]).numpy())
    assert OF_SPECTRA["condition_number"](spectra[0].numpy()) == pytest.approx(size[0, -1] / size[0, 0])


@pytest.mark.parametrize(("n", "m", "rank"), [(5, 4, 1), (4, 6, 3), (5, 5, 2)])
def test_tangent_projectors_keep_what_moves_along_the_matrices_of_a_rank_and_nothing_else(
    n, m, rank, generator
):
    A, B = normal(generator, COUNT, n, rank), normal(generator, COUNT, m, rank)
    P = tangent_projectors("completion", A @ B.mT, rank)
    assert P.shape == (COUNT, n * m, n * m)
    torch.testing.assert_close(P, P.mT)
    torch.testing.assert_close(P @ P, P)
    trace = P.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, torch.full((COUNT,), rank * (n + m - rank)).double())
    # Derivatives of (A + εA')(B + εB')ᵀ.
    along = (A @ normal(generator, COUNT, rank, m) + normal(generator, COUNT, n, rank) @ B.mT).flatten(1)
    torch.testing.assert_close((P @ along.unsqueeze(-1)).squeeze(-1), along)
    # Rows that A does not reach times columns that B does not.
    left, right = (torch.linalg.qr(Z, mode="complete").Q[..., rank:] for Z in (A, B))
    across = left @ normal(generator, COUNT, n - rank, m - rank) @ right.mT
    assert (P @ across.reshape(COUNT, -1, 1)).abs().max() < 1e-12


def test_tangent_projectors_of_inverse_problems_symmetrise_and_addition_has_none(generator):
    n, Z = 4, normal(generator, COUNT, 4, 4)
    P = tangent_projectors("inverse", normal(generator, COUNT, n, n), 1)
    found = (P @ Z.reshape(COUNT, -1, 1)).reshape(COUNT, n, n)
    torch.testing.assert_close(found, (Z + Z.mT) / 2)
    torch.testing.assert_close(P.diagonal(dim1=1, dim2=2).sum(1), torch.full((COUNT,), 10.0).double())
    assert tangent_projectors("addition", Z, 1) is None
    assert curvature_ratio(torch.eye(16).double(), None, COUNT).isnan().tolist() == [True] * COUNT


def test_curvature_ratio_is_what_was_put_along_and_across(generator):
    Y = normal(generator, COUNT, 5, 2) @ normal(generator, COUNT, 2, 4)
    P = tangent_projectors("completion", Y, 2)
    along, across = normal(generator, 2).exp()
    for row in range(COUNT):
        H = along * P[row] + across * (torch.eye(20) - P[row])
        assert curvature_ratio(H, P, COUNT)[row].item() == pytest.approx((across / along).item())


def test_arms_have_norm_one_lie_in_their_block_and_depend_on_seed_and_problem_alone(generator, seed):
    A, B = normal(generator, COUNT, 5, 2), normal(generator, COUNT, 4, 2)
    arms = arms_of([3, 1, 4], A @ B.mT, 2, 6, seed)
    left, right = (torch.linalg.qr(Z).Q.unsqueeze(1) for Z in (A, B))
    keeps = {"core": (1, 1), "column": (0, 1), "row": (1, 0), "normal": (0, 0)}
    for arm, (from_left, from_right) in keeps.items():
        found = arms[arm]
        assert found.shape == (COUNT, 6, 5, 4)
        torch.testing.assert_close(torch.linalg.matrix_norm(found), torch.ones(COUNT, 6).double())
        torch.testing.assert_close(left @ (left.mT @ found), from_left * found)
        torch.testing.assert_close(found @ right @ right.mT, from_right * found)
        assert not torch.allclose(found[:, 0], found[:, 1])
    last = arms_of([4], (A @ B.mT)[2:], 2, 6, seed)
    other = arms_of([4], (A @ B.mT)[2:], 2, 6, seed + 1)
    torch.testing.assert_close(last["row"], arms["row"][2:])
    assert not torch.allclose(other["row"], last["row"])
