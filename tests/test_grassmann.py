"""EXP-004 on landscapes with known answers: what each arm costs, how far subspaces turn, what confounds."""

import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
import torch

from iredinterp.analyses.grassmann import GrassmannianAnalyzer, grassmann_tables
from iredinterp.analyses.grassmann.ranks import kendall, partial_correlation, spearman
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.expected import arms_of
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import problems_table
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.analytic import GaussianPosterior, QuadraticEnergy, haar_orthogonal

LEVELS, N = 10, 5
SCHEDULE = cosine_schedule()
ARMS = ("core", "column", "row", "normal")
RADII = (0.3, 1.0)
EXACT = {"rtol": 1e-9, "atol": 1e-11}
NO_GAP = "the answer has no singular gap at this rank"
NO_PATH = "an answer is not of this rank, or the path between them is one of several or loses its rank"


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def drawn(spec, count, generator):
    """Problems of a distribution as a table, and the keys of whoever is analysed on them."""
    keys = {"model": "planted", "condition": "trained", "task": spec.task, "n": spec.n, "rank": spec.rank}
    return problems_table(draw_problems(spec, count, generator)), keys


def completion(generator, count=3, rank=1, **more):
    return drawn(ProblemSpec("completion", N, rank=rank, **more), count, generator)


def replaced(table, **columns):
    for name, tensor in columns.items():
        table = table.set_column(table.column_names.index(name), name, tensor_array(tensor))
    return table


def knowing(problems):
    """The problems with the answer in place of x."""
    return replaced(problems, x=tensor_column(problems, "y_star"))


def oracle(d=N * N):
    """Bayes-optimal where x is the answer: E = ‖y − √ᾱ_t x‖²/2σ_t and a constant."""
    return GaussianPosterior(slope=torch.eye(d), covariance=torch.zeros(d, d))


def network(generator, d=N * N):
    return MLPEnergy(EnergyMLP.random(d, d, 32, generator).to(torch.float64))


def tables_of(energy, problems, keys, **options):
    options = {"radii": RADII, "draws": 2, "perturbations": 6, "steps": 5} | options
    return grassmann_tables(energy, problems, keys, **options)


def values(metrics, name, component=""):
    """A metric as (K, P, positions), every entry defined."""
    frame = rows_of(metrics, name, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    return torch.tensor(frame["value"].to_numpy()).reshape(LEVELS, frame["problem_id"].nunique(), -1)


def reason(metrics, name, component=""):
    frame = rows_of(metrics, name, component)
    assert frame["value"].isna().all(), f"{name} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def rows_of(metrics, name, component=""):
    frame = metrics.to_pandas().query("metric == @name and component == @component")
    assert len(frame), f"no rows of {name} {component!r}"
    return frame.sort_values(["t", "problem_id", "index"])


def moves_of(displaced, arm, column):
    """A column of the displacements of an arm, (K, P, draws, radii)."""
    frame = displaced.to_pandas().query("arm == @arm").sort_values(["t", "problem_id", "draw", "radius"])
    sizes = (LEVELS, frame["problem_id"].nunique(), frame["draw"].nunique())
    return torch.tensor(frame[column].to_numpy().astype(float)).reshape(*sizes, -1)


def lengths(d=N * N):
    """‖ΔY‖ of the arms, (K, 1, 1, radii)."""
    return SCHEDULE.sigma[:, None, None, None] * math.sqrt(d) * torch.tensor(RADII, dtype=torch.float64)


def projected_out(problems):
    """E = ½‖(I − P)Y‖² with P onto the column space of the answers, carried by x."""
    U = torch.linalg.svd(tensor_column(problems, "y_star"))[0][..., :1]

    def function(x, y, t):
        Y = y.unflatten(-1, (N, N))
        return (Y - x.unflatten(-1, (N, N)) @ Y).square().sum((-2, -1)) / 2

    return CallableEnergy(function, N * N, N * N), replaced(problems, x=U @ U.mT)


def test_in_the_optimal_energy_of_a_single_answer_all_arms_cost_the_same(generator):
    problems, keys = completion(generator, rank=2)
    metrics, _, paths = tables_of(oracle(), knowing(problems), keys)
    torch.testing.assert_close(values(metrics, "energy_ratio"), torch.ones(LEVELS, 3, 1).double(), **EXACT)
    ones = torch.ones(LEVELS, 3, 2, dtype=torch.float64)
    for arm in ARMS:
        torch.testing.assert_close(values(metrics, "scaled_change", arm), ones, **EXACT)
        assert (values(metrics, "odd_change", arm) < 1e-11).all()
        cost = (lengths() ** 2 / (2 * SCHEDULE.sigma[:, None, None, None])).mean(2).expand(-1, 3, -1)
        torch.testing.assert_close(values(metrics, "energy_change", arm), cost, **EXACT)
        if arm != "core":
            torch.testing.assert_close(values(metrics, "arm_ratio", f"{arm}/core"), ones, **EXACT)
    assert (values(metrics, "barrier", "straight") < 1e-11).all()
    straight = paths.to_pandas().query("path == 'straight'").sort_values(["t", "problem_id", "position"])
    found = torch.tensor(straight["energy_change"].to_numpy()).reshape(LEVELS, 3, 5)
    Y = tensor_column(problems, "y_star")
    apart = (Y - Y.roll(-1, 0)).square().sum((1, 2))[None, :, None]
    rest = torch.linspace(1, 0, 5, dtype=torch.float64).square()
    scale = (SCHEDULE.abar / (2 * SCHEDULE.sigma))[:, None, None]
    torch.testing.assert_close(found, scale * apart * rest, **EXACT)


def test_an_energy_of_the_column_space_alone_charges_only_the_arms_that_leave_it(generator):
    problems, keys = completion(generator)
    energy, problems = projected_out(problems)
    metrics, *_ = tables_of(energy, problems, keys)
    cost = (lengths() ** 2 / 2).mean(2).expand(-1, 3, -1)
    for arm in ("column", "normal"):
        torch.testing.assert_close(values(metrics, "energy_change", arm), cost, **EXACT)
        assert "is not positive" in reason(metrics, "arm_ratio", f"{arm}/core")
    for arm in ("core", "row"):
        assert (values(metrics, "energy_change", arm).abs() < 1e-20).all()
    assert "is not positive" in reason(metrics, "energy_ratio")
    assert "is not positive" in reason(metrics, "arm_ratio", "row/core")


def test_arms_in_an_anisotropic_quadratic_cost_half_their_curvature_and_its_slope_is_odd(generator):
    d, draws, seed = N * N, 3, 11
    problems, keys = completion(generator, 3, 2)
    spectrum = torch.rand(LEVELS, d, generator=generator).double() + 0.2
    Q, centre = haar_orthogonal(d, generator), normal(generator, d)
    metrics, displaced, _ = tables_of(
        QuadraticEnergy(spectrum=spectrum, eigenbasis=Q, centre=centre),
        replaced(problems, x=torch.zeros(3, 1)),
        keys,
        draws=draws,
        seed=seed,
    )
    Y = tensor_column(problems, "y_star")
    H = (Q * spectrum.unsqueeze(1)) @ Q.mT
    away = SCHEDULE.sqrt_alphas_cumprod[:, None, None] * Y.flatten(1) - centre
    slope = torch.einsum("kij,kpj->kpi", H, away)
    arms = arms_of(range(3), Y, 2, draws, seed)
    for arm in ARMS:
        b = arms[arm].flatten(2)
        even = torch.einsum("pwi,kij,pwj->kpw", b, H, b)[..., None] * lengths() ** 2 / 2
        odd = torch.einsum("kpi,pwi->kpw", slope, b)[..., None] * lengths()
        torch.testing.assert_close(moves_of(displaced, arm, "energy_change"), even, **EXACT)
        torch.testing.assert_close(moves_of(displaced, arm, "energy_odd"), odd, **EXACT)
        torch.testing.assert_close(values(metrics, "energy_change", arm), even.mean(2), **EXACT)
        torch.testing.assert_close(values(metrics, "odd_change", arm), odd.square().mean(2).sqrt(), **EXACT)
        scaled = (2 * SCHEDULE.sigma[:, None, None, None] * even / lengths() ** 2).mean(2)
        torch.testing.assert_close(values(metrics, "scaled_change", arm), scaled, **EXACT)
    means = {arm: values(metrics, "energy_change", arm)[..., -1:] for arm in ARMS}
    torch.testing.assert_close(values(metrics, "energy_ratio"), means["column"] / means["core"])
    torch.testing.assert_close(
        values(metrics, "arm_ratio", "normal/core")[..., -1:], means["normal"] / means["core"]
    )


def test_displacements_have_their_norm_and_turn_subspaces_by_their_closed_form(generator):
    count, draws, seed = 4, 3, 5
    problems, keys = completion(generator, count)
    _, displaced, _ = tables_of(oracle(), knowing(problems), keys, draws=draws, seed=seed)
    Y = tensor_column(problems, "y_star")
    size = SCHEDULE.sqrt_alphas_cumprod[:, None, None, None] * torch.linalg.matrix_norm(Y)[:, None, None]
    shape = (LEVELS, count, draws, 2)
    zero, turned = torch.zeros(shape).double(), torch.atan(lengths() / size).expand(shape)
    found = {
        (arm, side): moves_of(displaced, arm, f"{side}_distance")
        for arm in ARMS
        for side in ("column", "row")
    }
    for arm in ARMS:
        torch.testing.assert_close(moves_of(displaced, arm, "norm"), lengths().expand(shape), **EXACT)
    for key in [("core", "column"), ("core", "row"), ("column", "row"), ("row", "column")]:
        torch.testing.assert_close(found[key], zero, atol=1e-9, rtol=0)
    for key in [("column", "column"), ("row", "row")]:
        torch.testing.assert_close(found[key], turned, **EXACT)
    # The normal arm adds singular values δσ_i(B) beside the one of the answer, and the largest one leads.
    added = torch.linalg.matrix_norm(arms_of(range(count), Y, 1, draws, seed)["normal"], 2)[..., None]
    over = lengths() * added > size
    assert 0 < over.double().mean() < 1
    torch.testing.assert_close(moves_of(displaced, "normal", "swapped"), over.double())
    for side in ("column", "row"):
        torch.testing.assert_close(found["normal", side], over.double() * math.pi / 2, atol=1e-9, rtol=0)
    assert (moves_of(displaced, "core", "swapped") == 0).all()


def test_isotropic_displacements_have_one_radius_each_uniform_up_to_the_largest(generator, seed):
    problems, keys = completion(generator, 10)
    _, displaced, _ = tables_of(oracle(), knowing(problems), keys, perturbations=30, seed=seed)
    radius, norm = (moves_of(displaced, "isotropic", name) for name in ("radius", "norm"))
    unit = SCHEDULE.sigma[:, None, None, None] * N
    torch.testing.assert_close(norm, radius * unit, **EXACT)
    torch.testing.assert_close(radius, radius[:1].expand_as(radius), **EXACT)
    assert scipy.stats.kstest(radius[0].flatten().numpy() / RADII[-1], "uniform").pvalue > 1e-8
    cost = moves_of(displaced, "isotropic", "energy_change")
    torch.testing.assert_close(cost, norm**2 / (2 * SCHEDULE.sigma[:, None, None, None]), **EXACT)


def test_an_energy_of_the_norm_alone_correlates_with_distance_but_not_given_the_norm(generator):
    problems, keys = completion(generator, 20)
    metrics, *_ = tables_of(oracle(), knowing(problems), keys, perturbations=30)
    for name in ("correlation", "kendall"):
        ones = torch.ones(LEVELS, 20, 1, dtype=torch.float64)
        torch.testing.assert_close(values(metrics, name, "norm"), ones)
    for side in ("column", "row"):
        assert values(metrics, "correlation", side)[0].mean() > 0.5
        assert reason(metrics, "partial_correlation", side).startswith("the norm alone orders")


def test_an_energy_of_the_column_space_correlates_with_its_distance_given_the_norm(generator):
    problems, keys = completion(generator, 30)
    energy, problems = projected_out(problems)
    metrics, displaced, _ = tables_of(energy, problems, keys, perturbations=40)
    # At level 0 displacements are small next to the answers.
    column, row = (values(metrics, "partial_correlation", side)[0].mean() for side in ("column", "row"))
    assert column > 0.1
    assert column > row + 0.1
    cost, distance = (
        moves_of(displaced, "isotropic", name)[0, 7, :, 0] for name in ("energy_change", "column_distance")
    )
    expected = scipy.stats.spearmanr(cost, distance).statistic
    assert values(metrics, "correlation", "column")[0, 7, 0].item() == pytest.approx(expected)
    expected = scipy.stats.kendalltau(cost, distance).statistic
    assert values(metrics, "kendall", "column")[0, 7, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_are_those_of_scipy(ties, generator):
    a, b, c = normal(generator, 3, 20, 12).numpy()
    if ties:
        a, b, c = (np.round(2 * values) for values in (a, b, c))
        a[0], c[1] = 1.0, -3.0
    b[2, 5], c[3, 0] = np.nan, np.nan
    for row, (one, other, given) in enumerate(zip(a, b, c, strict=True)):
        constant = any(np.ptp(values) == 0 for values in (one, other))
        if constant or np.isnan([one, other]).any():
            assert np.isnan(
                [spearman(a, b)[row], kendall(a, b)[row], partial_correlation(a, b, c)[row]]
            ).all()
            continue
        assert spearman(a, b)[row] == pytest.approx(scipy.stats.spearmanr(one, other).statistic, abs=1e-12)
        assert kendall(a, b)[row] == pytest.approx(scipy.stats.kendalltau(one, other).statistic, abs=1e-12)
        if np.ptp(given) == 0 or np.isnan(given).any():
            assert np.isnan(partial_correlation(a, b, c)[row])
            continue
        # What a straight line in the ranks of the third leaves of those of the two.
        design = np.stack([np.ones(12), scipy.stats.rankdata(given)], axis=1)
        ranks = np.stack([scipy.stats.rankdata(one), scipy.stats.rankdata(other)], axis=1)
        left = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
        expected = np.corrcoef(left.T)[0, 1]
        assert partial_correlation(a, b, c)[row] == pytest.approx(expected, abs=1e-10)


def test_infinite_numbers_and_perfect_orders_have_no_rank_correlation(generator):
    a, b = normal(generator, 2, 3, 12).numpy()
    b[1, :2] = np.inf
    for found in (spearman(a, b), kendall(a, b), partial_correlation(a, b, a[::-1].copy())):
        assert np.isnan(found).tolist() == [False, True, False]
    assert np.isnan(partial_correlation(a, b, np.exp(a))).all()


def test_directions_depend_on_seed_and_problem_alone(generator):
    problems, keys = completion(generator, rank=2)
    first, other = (
        tables_of(energy, problems, keys, seed=3)[1] for energy in (network(generator), network(generator))
    )
    again = tables_of(network(generator), problems, keys, seed=4)[1]
    for arm in (*ARMS, "isotropic"):
        for name in ("norm", "radius", "column_distance", "row_distance"):
            assert torch.equal(moves_of(first, arm, name), moves_of(other, arm, name))
        assert not torch.allclose(
            moves_of(first, arm, "energy_change"), moves_of(other, arm, "energy_change")
        )
    assert not torch.allclose(
        moves_of(first, "column", "column_distance"), moves_of(again, "column", "column_distance")
    )


def test_any_split_of_the_problems_and_any_chunk_give_the_same_tables(generator):
    problems, keys = completion(generator, 5, factors="positive")
    energy = network(generator)
    whole = tables_of(energy, problems, keys)
    blocks = [tables_of(energy, problems, keys, block=part) for part in (slice(0, 2), slice(2, 5))]
    joined = [pa.concat_tables(parts) for parts in zip(*blocks, strict=True)]
    for found in (joined, tables_of(energy, problems, keys, chunk=7)):
        for part, table in zip(found, whole, strict=True):
            assert part.schema == table.schema
            ordered = [("t", "ascending"), ("problem_id", "ascending")]
            ordered += [
                (name, "ascending")
                for name in table.column_names
                if name in ("metric", "component", "index", "arm", "draw", "radius", "path", "position")
            ]
            one, other = (one.sort_by(ordered) for one in (part, table))
            for name in table.column_names:
                if pa.types.is_floating(table[name].type):
                    pair = (tensor_column(one, name), tensor_column(other, name))
                    torch.testing.assert_close(*pair, rtol=1e-7, atol=1e-10, equal_nan=True)
                else:
                    assert one[name].equals(other[name]), name


def test_matrices_of_full_rank_have_no_path_within_a_lower_one(generator):
    for spec in (ProblemSpec("inverse", N), ProblemSpec("completion", N)):
        problems, keys = drawn(spec, 3, generator)
        metrics, _, paths = tables_of(network(generator), problems, keys, rank=2)
        assert reason(metrics, "barrier", "subspace") == NO_PATH
        assert reason(metrics, "path_length_ratio") == NO_PATH
        assert values(metrics, "barrier", "straight").shape == (LEVELS, 3, 1)
        frame = paths.to_pandas()
        assert frame.query("path == 'subspace'")["energy_change"].isna().all()
        assert frame.query("path == 'subspace'")["reason"].unique().tolist() == [NO_PATH]
        assert frame.query("path == 'straight'")["energy_change"].notna().all()
        assert frame.query("path == 'straight'")["reason"].isna().all()


def test_matrices_of_rank_one_with_positive_factors_are_all_connected_within_their_rank(generator):
    problems, keys = completion(generator, 6, factors="positive")
    metrics, _, paths = tables_of(oracle(), knowing(problems), keys, steps=41)
    assert (values(metrics, "path_length_ratio") >= 1).all()
    assert (values(metrics, "barrier", "subspace") >= 0).all()
    # Both ends are the two answers, on either path.
    frame = paths.to_pandas().sort_values(["t", "problem_id", "position"])
    ends = [
        frame.query("path == @path and position in (0, 40)")["energy_change"]
        for path in ("straight", "subspace")
    ]
    np.testing.assert_allclose(*ends, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("steps", "height"), [(5, 1.0), (4, 64 / 81)])
def test_barrier_of_a_double_well_between_two_answers_is_its_height(steps, height, generator):
    def function(x, y, t):
        first, last = x.chunk(2, dim=-1)
        Y = y / SCHEDULE.sqrt_alphas_cumprod[t].unsqueeze(-1)
        across = last - first
        z = 2 * ((Y - (first + last) / 2) * across).sum(-1) / across.square().sum(-1)
        return (z.square() - 1).square() + x.sum(-1)

    problems, keys = completion(generator, 4)
    Y = tensor_column(problems, "y_star")
    problems = replaced(problems, x=torch.stack([Y.roll(-1, 0), Y], dim=1))
    metrics, *_ = tables_of(CallableEnergy(function, 2 * N * N, N * N), problems, keys, steps=steps)
    found = values(metrics, "barrier", "straight")
    torch.testing.assert_close(found, torch.full_like(found, height), **EXACT)


def test_only_an_answer_without_a_gap_is_null(generator):
    problems, keys = completion(generator, 4, 2)
    Y = tensor_column(problems, "y_star")
    Y[1] = Y[1, :, :1] @ Y[1, :1]
    energy = network(generator)
    plain = tables_of(energy, problems, keys)[0]
    metrics, displaced, _ = tables_of(energy, replaced(problems, y_star=Y, signal=Y), keys)
    for name, component in [
        ("energy_change", "core"),
        ("scaled_change", "column"),
        ("odd_change", "normal"),
        ("swapped", "normal"),
        ("energy_ratio", ""),
        ("arm_ratio", "normal/core"),
        ("correlation", "column"),
        ("kendall", "row"),
        ("partial_correlation", "row"),
    ]:
        frame, before = rows_of(metrics, name, component), rows_of(plain, name, component)
        bad = frame["problem_id"] == 1
        assert frame[bad]["value"].isna().all(), name
        assert NO_GAP in frame[bad]["reason"].unique().item()
        np.testing.assert_allclose(
            frame[~bad]["value"].to_numpy(float), before[~bad.to_numpy()]["value"].to_numpy(float), rtol=1e-7
        )
    lost = displaced.to_pandas().query("problem_id == 1")
    assert lost["reason"].unique().tolist() == [NO_GAP]
    assert lost["column_distance"].isna().all()
    # The path of the problem before starts at that answer.
    frame = rows_of(metrics, "barrier", "subspace")
    assert frame[frame["problem_id"].isin([0, 1])]["reason"].unique().tolist() == [NO_PATH]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radii": ()}, r"grassmann.radii: found \[\]; give positive numbers in ascending order"),
        ({"radii": (0.0, 1.0)}, r"grassmann.radii: found \[0.0, 1.0\]"),
        ({"radii": (1.0, 0.3)}, r"grassmann.radii: found \[1.0, 0.3\]"),
        ({"radii": (1.0, 1.0)}, r"grassmann.radii"),
        ({"draws": 0}, "grassmann.draws: found 0, needs at least 1"),
        ({"perturbations": 3}, "grassmann.perturbations: found 3, needs at least 4"),
        ({"steps": 2}, "grassmann.steps: found 2, needs at least 3"),
        ({"rank": 5}, r"rank must lie in 1 … min\(n, m\) − 1 = 4, found 5"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options, message, generator):
    problems, keys = completion(generator)
    with pytest.raises(ConfigError, match=message):
        tables_of(oracle(), knowing(problems), keys, **options)


def test_the_analyzer_for_notebooks_says_what_the_tables_say(generator):
    problems, _ = completion(generator, count=4)
    energy = oracle()
    Y = tensor_column(problems, "y_star")
    x = tensor_column(problems, "x").flatten(1)
    analyzer = GrassmannianAnalyzer(energy, rank=1)
    costs = analyzer.arms(x, Y, t=2, radius=0.7, seed=3)
    expected = energy.schedule.sigma[2] * 0.7**2 * N * N / 2
    assert list(costs) == ["core", "column", "row", "normal"]
    for cost in costs.values():
        torch.testing.assert_close(cost, torch.full_like(cost, float(expected)), rtol=1e-9, atol=0)
    U = torch.linalg.svd(Y).U
    angle = 0.3
    turned = Y + math.tan(angle) * U[:, :, 1:2] @ (U[:, :, :1].mT @ Y)
    distances = analyzer.distances(Y, turned)
    torch.testing.assert_close(distances["column"], torch.full((4,), angle, dtype=torch.float64))
    assert distances["row"].max() < 1e-7
    assert analyzer.distances(Y, torch.zeros_like(Y))["row"].isnan().all()
