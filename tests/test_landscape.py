"""EXP-002 on landscapes whose minima are known: how many there are, which are wrong, what leads to them."""

import numpy as np
import pytest
import scipy.cluster.hierarchy
import scipy.optimize
import torch
from statsmodels.stats.proportion import proportion_confint

from iredinterp.analyses.landscape import Settings, landscape_tables
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.minima import (
    cluster,
    outside_box,
    posterior_variance,
    search,
    wilson_interval,
)
from iredinterp.points import normal_draws, problems_table, q_sample
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.analytic import GaussianPosterior, MixturePosterior, haar_orthogonal
from iredinterp.truth.oracle import BayesOracle
from iredinterp.truth.planted import planted

SCHEDULE = cosine_schedule()
SMALL = {"every": 1, "starts": 4, "runs": 2, "slices": 1, "size": 5, "images": 9, "path_steps": 60}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def drawn(spec, count, generator):
    """Problems of a distribution as a table, and the keys of whoever is analysed on them."""
    keys = {"model": "m", "condition": "trained", "task": spec.task, "n": spec.n, "rank": spec.rank}
    return problems_table(draw_problems(spec, count, generator)), keys


def replaced(table, **columns):
    for name, tensor in columns.items():
        table = table.set_column(table.column_names.index(name), name, tensor_array(tensor))
    return table


def tables_of(energy, problems, keys, oracle=None, block=slice(None), **options):
    return landscape_tables(energy, problems, keys, Settings(**SMALL | options), oracle, block)


def frame_of(tables, name, component=""):
    frame = tables["metrics"].to_pandas().query("metric == @name and component == @component")
    assert len(frame), f"no rows of {name} {component!r}"
    return frame.sort_values(["t", "problem_id", "index"])


def values(tables, name, component=""):
    """A metric as (L, P), levels ascending, every entry defined."""
    frame = frame_of(tables, name, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    return frame["value"].to_numpy().reshape(frame["t"].nunique(), -1)


def reason(tables, name, component=""):
    frame = frame_of(tables, name, component)
    assert frame["value"].isna().all(), f"{name} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def cube():
    """E = Σ((y_i/√ᾱ_t)² − 1)² in four dimensions: a minimum √ᾱ_t s for every pattern of signs s.

    A Newton step on |∇²E| leaves the sign of every coordinate as it is.
    """
    scale = SCHEDULE.sqrt_alphas_cumprod

    def function(x, y, t):
        return ((y / scale[t][:, None]).square() - 1).square().sum(-1)

    return CallableEnergy(function, 4, 4)


def test_minima_of_a_cube_are_its_corners_each_with_the_starts_of_its_orthant(seed, generator):
    problems, keys = drawn(ProblemSpec("inverse", 2), 6, generator)
    signs = normal(generator, 6, 2, 2).sign()
    problems = replaced(problems, y_star=signs)
    levels, starts = (6, 4), 5
    tables = tables_of(cube(), problems, keys, levels=levels, starts=starts, seed=seed, path_steps=1)
    minima = tables["minima"].to_pandas()
    noise = normal_draws(seed, "q_sample", range(6), starts, 4)
    for t in levels:
        sigma, scale = SCHEDULE.sigma[t], SCHEDULE.sqrt_alphas_cumprod[t]
        begin = q_sample(signs.flatten(1)[:, None], t, noise, SCHEDULE).sign()
        flips = (begin != signs.flatten(1)[:, None]).sum(2)
        # Any flip is further than half the typical norm of the noise at these levels.
        assert 2 * scale / (2 * sigma) > 0.5
        fraction = (flips == 0).double().mean(1)
        found = values(tables, "basin_fraction", "q_sample")[sorted(levels).index(t)]
        np.testing.assert_allclose(found, fraction)
        low, high = proportion_confint((flips == 0).sum(1).numpy(), starts, method="wilson")
        for name, bound in (("basin_low", low), ("basin_high", high)):
            np.testing.assert_allclose(values(tables, name, "q_sample")[sorted(levels).index(t)], bound)
        for problem in range(6):
            rows = minima.query("t == @t and problem_id == @problem")
            y = torch.tensor(np.stack(rows["y"])).reshape(-1, 4) / scale
            torch.testing.assert_close(y.abs(), torch.ones_like(y))
            patterns = {tuple(row) for row in y.sign().tolist()}
            assert len(patterns) == len(rows) >= len({tuple(row) for row in begin[problem].tolist()})
            assert {tuple(row) for row in begin[problem].tolist()} <= patterns
            assert rows["starts"].sum() == starts + SMALL["runs"]
            apart = (y.sign() != signs.flatten(1)[problem]).sum(1)
            assert (rows["spurious"].to_numpy() == (apart > 0).numpy()).all()
            distance = 2 * scale * apart.double().sqrt() / (2 * sigma)
            np.testing.assert_allclose(rows["distance"], distance, atol=1e-6)
            share = (apart > 0).double().mean().item()
            rate = frame_of(tables, "spurious_rate").query("t == @t and problem_id == @problem")
            assert rate["value"].item() == pytest.approx(share)
    assert (values(tables, "outside_box") == 0).all()
    assert (values(tables, "unconverged_rate") == 0).all()
    np.testing.assert_allclose(minima["smallest"], minima["sigma"] * 8 / SCHEDULE.abar[minima["t"]].numpy())


def test_a_straight_line_between_corners_rises_by_one_for_every_sign_that_differs(seed, generator):
    problems, keys = drawn(ProblemSpec("inverse", 2), 4, generator)
    problems = replaced(problems, y_star=normal(generator, 4, 2, 2).sign())
    tables = tables_of(cube(), problems, keys, levels=(5,), starts=8, seed=seed, path_steps=1)
    minima = tables["minima"].to_pandas()
    straight = frame_of(tables, "barrier", "straight").set_index("problem_id")
    for problem, rows in minima.groupby("problem_id"):
        if len(rows) == 1:
            assert straight.loc[problem, "reason"] == "fewer than two minima were found"
            continue
        signs = np.sign(np.stack(rows["y"]))
        right = rows["nearest"].to_numpy()
        allowed = (signs[~right] != signs[right]).sum(1) / SCHEDULE.sigma[5].item()
        assert np.isclose(straight.loc[problem, "value"], allowed).any()


@pytest.mark.parametrize("task", ["addition", "inverse", "completion"])
def test_an_optimal_landscape_with_one_minimum_has_no_spurious_one(task, generator):
    extra = {"rank": 1, "factors": "positive", "observed": 0.9} if task == "completion" else {}
    spec = ProblemSpec(task, 3, **extra)
    oracle = BayesOracle(spec)
    problems, keys = drawn(spec, 12, generator)
    x = tensor_column(problems, "x").flatten(1)
    determined = oracle.exact(x).nonzero().flatten()
    problems = problems.take(determined[:4].numpy())
    tables = tables_of(oracle, problems, keys, oracle)
    assert (values(tables, "minima_count") == 1).all()
    assert (values(tables, "spurious_rate") == 0).all()
    for kind in ("q_sample", "sampler"):
        assert (values(tables, "basin_fraction", kind) == 1).all()
    np.testing.assert_allclose(values(tables, "answer_distance"), 0, atol=1e-6)
    for component in ("straight", "string", "saddle"):
        assert "fewer than two minima" in reason(tables, "barrier", component)
    assert tables["paths"].num_rows == 0


def test_a_planted_network_has_the_planted_minimum_and_is_spurious_where_that_is_far(seed, generator):
    problems, keys = drawn(ProblemSpec("inverse", 3), 4, generator)
    built = planted(9, 9, seed, decoys={"dead_end": 2, "gated": 1})
    tables = tables_of(MLPEnergy(built.model), problems, keys, levels=(7, 4, 0))
    x, y_star = (tensor_column(problems, name).flatten(1) for name in ("x", "y_star"))
    minima = tables["minima"].to_pandas().sort_values(["t", "problem_id"])
    assert (values(tables, "minima_count") == 1).all()
    for index, t in enumerate((0, 4, 7)):
        truth = built.truth.minimum(x, torch.full((4,), t))
        here = minima.query("t == @t")
        torch.testing.assert_close(torch.tensor(np.stack(here["y"])), truth, rtol=0, atol=1e-5)
        scale, sigma = (
            part[t].double()
            for part in (built.truth.schedule.sqrt_alphas_cumprod, built.truth.schedule.sigma)
        )
        distance = ((truth - scale * y_star).norm(dim=1) / (3 * sigma)).numpy()
        np.testing.assert_allclose(values(tables, "answer_distance")[index], distance, atol=1e-4)
        clear = abs(distance - 0.5) > 1e-3
        expected = (distance > 0.5).astype(float)
        np.testing.assert_array_equal(values(tables, "spurious_rate")[index][clear], expected[clear])
        smallest = sigma * built.truth.spectrum[t].min()
        np.testing.assert_allclose(here["smallest"], smallest, rtol=1e-6)


def two_bumps(generator, distance, spread, d=5):
    """Equal Gaussians at ±distance along a random direction, of standard deviation `spread` in all others."""
    axis = haar_orthogonal(d, generator)[0]
    parts = [
        GaussianPosterior(
            slope=torch.zeros(d, 1), centre=sign * distance * axis, covariance=spread**2 * torch.eye(d)
        )
        for sign in (1, -1)
    ]
    return MixturePosterior(weights=torch.tensor([0.5, 0.5]), components=parts), axis


def stationary(z, mean, variance):
    return z - mean * np.tanh(mean * z / variance)


def test_two_gaussians_have_two_minima_where_they_are_further_apart_than_they_are_wide(generator):
    distance = 0.8 + torch.rand(1, generator=generator).item()
    energy, axis = two_bumps(generator, distance, 0.1)
    levels = torch.arange(10)
    starts = normal(generator, 10, 24, 5)
    x = torch.zeros(10, 1, dtype=torch.float64)
    sigma, scale = SCHEDULE.sigma, SCHEDULE.sqrt_alphas_cumprod
    found = search(energy, x, starts, levels, 0.01 * sigma, 1e-9, 100, 64)
    assert found.converged.double().mean() > 0.9
    width = (SCHEDULE.abar * 0.1**2 + sigma**2).sqrt()
    for t in range(10):
        mean = scale[t].item() * distance
        two = mean > width[t].item()
        assert int(found.distinct[t].sum()) == 1 + two
        along = found.y[t][found.distinct[t]] @ axis
        # A stationary point on the axis solves z = m tanh(mz/w²).
        variance = width[t].item() ** 2
        root = 0.0
        if two:
            root = scipy.optimize.brentq(stationary, 1e-9, mean, args=(mean, variance))
        np.testing.assert_allclose(along.abs(), root, atol=1e-6)
        np.testing.assert_allclose(found.y[t][found.distinct[t]] - along[:, None] * axis, 0, atol=1e-6)


def test_clusters_are_those_of_single_linkage(generator):
    y = normal(generator, 5, 12, 2)
    radius = 0.3 + torch.rand(5, generator=generator, dtype=torch.float64)
    valid = torch.rand(5, 12, generator=generator) < 0.8
    valid[:, :2] = True
    labels = cluster(y, valid, radius)
    for row in range(5):
        keep = valid[row].numpy()
        tree = scipy.cluster.hierarchy.linkage(y[row, valid[row]].numpy(), "single")
        expected = scipy.cluster.hierarchy.fcluster(tree, radius[row].item(), "distance")
        found = labels[row].numpy()
        assert (found[~keep] == -1).all()
        same = found[keep][:, None] == found[keep]
        np.testing.assert_array_equal(same, expected[:, None] == expected)
        for label in np.unique(found[keep]):
            assert label == np.flatnonzero(found == label)[0]


def test_a_chain_of_close_points_is_one_cluster_however_long():
    y = torch.arange(17, dtype=torch.float64)[None, torch.randperm(17), None]
    assert (cluster(y, torch.ones(1, 17, dtype=torch.bool), torch.ones(1)) == 0).all()
    apart = cluster(y, torch.ones(1, 17, dtype=torch.bool), torch.full((1,), 0.99))
    assert apart.tolist() == [list(range(17))]


def test_wilson_intervals_are_those_of_statsmodels(generator):
    trials = torch.randint(1, 60, (40,), generator=generator)
    hits = (torch.rand(40, generator=generator) * (trials + 1)).long().clamp(max=trials)
    hits[0], hits[1] = 0, trials[1]
    expected = proportion_confint(hits.numpy(), trials.numpy(), method="wilson")
    for found, bound in zip(wilson_interval(hits, trials), expected, strict=True):
        np.testing.assert_allclose(found, np.clip(bound, 0, 1), atol=1e-12)
    assert wilson_interval(torch.tensor(0), torch.tensor(0))[0].isnan()


def test_the_variance_of_a_gaussian_posterior_is_read_off_its_noisiest_level(generator):
    factor = 0.3 * normal(generator, 6, 4)
    posterior = GaussianPosterior(slope=normal(generator, 6, 3), covariance=factor @ factor.mT)
    found = posterior_variance(posterior, normal(generator, 5, 3), chunk=2)
    # The level says a little of y₀: Σ(I + ᾱΣ/σ²)⁻¹ in the place of Σ.
    torch.testing.assert_close(found, (factor @ factor.mT).trace().expand(5), rtol=1e-3, atol=0)
    assert (posterior_variance(None, normal(generator, 5, 3), chunk=2) == 0).all()


def test_entries_outside_the_box_of_the_sampler_are_counted():
    y = torch.tensor([[0.9, -1.1, 2.0], [1.0, -1.0, 0.0]])
    assert outside_box(y, torch.tensor(0.5)).tolist() == [2, 0]


def test_a_constant_added_to_the_energy_changes_no_result(seed, generator):
    problems, keys = drawn(ProblemSpec("inverse", 2), 3, generator)
    network = EnergyMLP.random(4, 4, 16, generator).to(torch.float64)
    energies = [
        CallableEnergy(lambda x, y, t, c=c: network.energy(x, y, t) + c * (x.sum(1) + t), 4, 4)
        for c in (0, 2)
    ]
    before, after = (
        tables_of(energy, problems, keys, seed=seed, levels=(6, 1), path_steps=5) for energy in energies
    )
    for name in ("metrics", "grid"):
        column = "value" if name == "metrics" else "dE"
        pair = (tensor_column(tables[name], column) for tables in (before, after))
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_problems_searched_together_give_what_each_gives_alone(seed, generator):
    problems, keys = drawn(ProblemSpec("inverse", 2), 4, generator)
    energy = MLPEnergy(EnergyMLP.random(4, 4, 16, generator).to(torch.float64))
    options = {"seed": seed, "levels": (7, 2), "slices": 4}
    whole = tables_of(energy, problems, keys, **options)
    order = ["metric", "component", "index", "t", "problem_id"]
    alone = [tables_of(energy, problems, keys, block=slice(k, k + 1), **options) for k in range(4)]
    for name, column, keys_of in (
        ("metrics", "value", order),
        ("grid", "dE", ["u_kind", "v_kind", "t", "problem_id", "alpha", "beta"]),
        ("minima", "distance", ["t", "problem_id", "distance"]),
        ("tracks", "off", ["u_kind", "v_kind", "t", "problem_id", "move"]),
    ):
        together = whole[name].to_pandas().sort_values(keys_of)
        split = [part[name].to_pandas() for part in alone]
        apart = type(together)(np.concatenate([part.to_numpy() for part in split]), columns=together.columns)
        apart = apart.sort_values(keys_of)
        pair = (frame[column].to_numpy(dtype=float) for frame in (together, apart))
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "landscape.every: found 0, needs at least 1"),
        ({"images": 2}, "landscape.images: found 2, needs at least 3"),
        ({"radius": 0.0}, "landscape.radius: found 0.0; give a number above 0"),
        ({"levels": ()}, "landscape.levels: found .*; give one or more, each once"),
        ({"levels": (3, 3)}, "landscape.levels: found .*; give one or more, each once"),
        ({"levels": (10,)}, "landscape.levels: found .*; name levels of 0 … 9"),
        ({"every": 3, "block": slice(1, 3)}, "landscape.every: found 3, .* divides sampling.block"),
    ],
)
def test_settings_out_of_range_are_named(options, message, generator):
    problems, keys = drawn(ProblemSpec("inverse", 2), 4, generator)
    with pytest.raises(ConfigError, match=message):
        tables_of(cube(), problems, keys, **options)
