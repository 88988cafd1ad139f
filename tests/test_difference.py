"""Two landscapes side by side, on energies whose differences are written down."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from iredinterp.analyses.difference import Settings, difference_tables
from iredinterp.analyses.difference.landscapes import optimal_matches
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import normal_draws, problems_table, q_sample
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.analytic import DoubleWell, QuadraticEnergy, haar_orthogonal
from iredinterp.truth.oracle import BayesOracle

SCHEDULE = cosine_schedule()
SPEC = ProblemSpec("inverse", 2)
SMALL = {"count": 4, "levels": [9, 4, 0], "vectors": 1, "starts": 2, "search_steps": 30, "path_steps": 20}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problems_of(generator, count=4):
    return problems_table(draw_problems(SPEC, count, generator))


def keys_of(name, **more):
    return {"model": name, "condition": "trained", "task": "inverse", "n": 2, "weights": "ema", **more}


def tables_of(energy, other, problems, oracle=None, **options):
    settings = Settings(**SMALL | options)
    return difference_tables(
        energy, other, problems, keys_of("a", seed=0), keys_of("b", seed=1), settings, oracle
    )


def frame_of(tables, name, component=""):
    frame = tables["metrics"].to_pandas().query("metric == @name and component == @component")
    assert len(frame), f"no rows of {name} {component!r}"
    return frame.sort_values(["t", "problem_id", "index"], ascending=[False, True, True])


def values(tables, name, component=""):
    """A metric as (L, P) or (L, P, k), the noisiest level first, every entry defined."""
    frame = frame_of(tables, name, component)
    assert frame["value"].notna().all(), frame["reason"].unique()
    shape = frame["t"].nunique(), frame["problem_id"].nunique(), frame["index"].nunique()
    found = frame["value"].to_numpy().reshape(shape)
    return found[..., 0] if shape[2] == 1 else found


def reason(tables, name, component=""):
    frame = frame_of(tables, name, component)
    assert frame["value"].isna().all(), f"{name} {component} is defined"
    (found,) = frame["reason"].unique()
    return found


def network(generator, hidden=12):
    return MLPEnergy(EnergyMLP.random(4, 4, hidden, generator).to(torch.float64))


def wells(shift=0.0, height=1.0, tilt=0.0):
    """A double well along the first axis, moved by `shift` along the second, stretched in E, and tilted."""
    well = DoubleWell(curvatures=torch.tensor([1.5, 2.0, 2.5]), dim_x=4)

    def function(x, y, t):
        moved = y - torch.tensor([0.0, shift, 0.0, 0.0], dtype=torch.float64)
        return height * well.function(x, moved, t) + tilt * y[:, 0]

    return CallableEnergy(function, 4, 4)


def at_the_first_well(problems):
    """The same problems, all of whose right answers are e₁/√ᾱ_t at level 4, next to a minimum."""
    answers = torch.zeros(problems.num_rows, 2, 2, dtype=torch.float64)
    answers[:, 0, 0] = 1 / SCHEDULE.sqrt_alphas_cumprod[4]
    place = problems.column_names.index("y_star")
    return problems.set_column(place, "y_star", tensor_array(answers))


def test_a_network_does_not_differ_from_itself(seed, generator):
    energy = network(generator)
    tables = tables_of(energy, energy, problems_of(generator), BayesOracle(SPEC), seed=seed)
    for name in ("scaled_difference", "minima_alone", "depth_difference", "barrier_difference"):
        for component in {*tables["metrics"].to_pandas().query("metric == @name")["component"]}:
            assert (frame_of(tables, name, component)["value"].dropna() == 0).all()
    for form in ("hessian", "gradient"):
        for scale in ("mean", "oracle"):
            assert (values(tables, f"{form}_difference", scale) == 0).all()
        np.testing.assert_allclose(values(tables, f"{form}_cosine"), 1)
        np.testing.assert_allclose(values(tables, f"{form}_error_cosine"), 1)
    np.testing.assert_allclose(values(tables, "principal_angle", "high"), 0, atol=1e-7)
    np.testing.assert_allclose(values(tables, "eigenspace_overlap", "low"), 1)
    assert (values(tables, "minima_shared") == values(tables, "minima_count", "model")).all()
    matches = tables["matches"].to_pandas()
    assert (matches["in_model"] & matches["in_other"]).all()
    assert (matches["distance"] == 0).all()
    assert (matches["right"] == matches["other_right"]).all()


def test_renumbered_hidden_units_are_the_same_landscape(seed, generator):
    energy = network(generator)
    order = torch.randperm(12, generator=generator)
    moved = dict(energy.model.parameters)
    # Units of the first layer: rows of fc1, columns of fc2.
    for name in ("fc1.weight", "fc1.bias"):
        moved[name] = moved[name][order]
    moved["fc2.weight"] = moved["fc2.weight"][:, order]
    other = MLPEnergy(EnergyMLP(moved, energy.schedule))
    tables = tables_of(energy, other, problems_of(generator), seed=seed)
    np.testing.assert_allclose(values(tables, "scaled_difference"), 0, atol=1e-10)
    np.testing.assert_allclose(values(tables, "gradient_difference", "mean"), 0, atol=1e-10)
    assert (values(tables, "minima_alone", "other") == 0).all()


def test_an_offset_c_of_x_and_t_is_no_difference(seed, generator):
    well, weights = wells(), normal(generator, 4)

    def function(x, y, t):
        return well.function(x, y, t) + 3 * (x @ weights) + t

    problems = problems_of(generator)
    tables = tables_of(well, CallableEnergy(function, 4, 4), problems, seed=seed)
    for name in ("scaled_difference", "depth_difference", "barrier_difference"):
        found = frame_of(tables, name)["value"].dropna()
        np.testing.assert_allclose(found, 0, atol=1e-6)
    assert len(frame_of(tables, "barrier_difference")["value"].dropna())
    np.testing.assert_allclose(values(tables, "hessian_difference", "mean"), 0, atol=1e-12)
    assert (values(tables, "minima_alone", "model") == 0).all()
    np.testing.assert_allclose(tables["matches"].to_pandas()["distance"], 0, atol=1e-6)


def test_a_scaled_quadratic_differs_by_its_scaled_eigenvalues(generator):
    spectrum = torch.tensor([-1.0, 0.5, 2.0, 5.0], dtype=torch.float64)
    basis, factor = haar_orthogonal(4, generator), 1.7
    one = QuadraticEnergy(spectrum=spectrum, eigenbasis=basis, dim_x=4)
    other = QuadraticEnergy(spectrum=factor * spectrum, eigenbasis=basis, dim_x=4)
    tables = tables_of(one, other, problems_of(generator))
    expected = (1 - factor) * SCHEDULE.sigma[[9, 4, 0]][:, None, None] * spectrum
    np.testing.assert_allclose(values(tables, "scaled_difference"), expected.expand(3, 4, 4), atol=1e-12)
    for form in ("hessian", "gradient"):
        found = values(tables, f"{form}_difference", "mean")
        np.testing.assert_allclose(found, (factor - 1) / ((1 + factor) / 2))
        np.testing.assert_allclose(values(tables, f"{form}_cosine"), 1)
    np.testing.assert_allclose(values(tables, "principal_angle", "low"), 0, atol=1e-7)
    assert reason(tables, "match_distance") == "no minimum is shared"
    assert reason(tables, "shared_share") == "neither network has a minimum here"


def test_a_turned_quadratic_has_the_principal_angle_it_was_turned_by(generator):
    spectrum = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    basis, angle = haar_orthogonal(4, generator), 0.1 + normal(generator).abs().clamp(max=1.3)
    turn = torch.eye(4, dtype=torch.float64)
    # In the plane of the second and the largest: the smallest stands still.
    turn[1, 1] = turn[3, 3] = angle.cos()
    turn[1, 3], turn[3, 1] = -angle.sin(), angle.sin()
    one = QuadraticEnergy(spectrum=spectrum, eigenbasis=basis, dim_x=4)
    other = QuadraticEnergy(spectrum=spectrum, eigenbasis=basis @ turn, dim_x=4)
    tables = tables_of(one, other, problems_of(generator))
    np.testing.assert_allclose(values(tables, "principal_angle", "high"), angle, rtol=1e-6)
    np.testing.assert_allclose(values(tables, "eigenspace_overlap", "high"), angle.cos() ** 2, rtol=1e-6)
    np.testing.assert_allclose(values(tables, "principal_angle", "low"), 0, atol=1e-7)
    np.testing.assert_allclose(values(tables, "eigenspace_overlap_chance", "low"), 1 / 4)
    np.testing.assert_allclose(values(tables, "scaled_difference"), 0, atol=1e-12)


def test_an_eigenspace_without_a_gap_is_not_compared(generator):
    bowl = QuadraticEnergy(spectrum=torch.ones(4), eigenbasis=torch.eye(4), dim_x=4)
    tables = tables_of(bowl, network(generator), problems_of(generator))
    for name in ("principal_angle", "eigenspace_overlap"):
        for end in ("low", "high"):
            assert reason(tables, name, end).startswith("eigenspace not separated")


def test_minima_moved_by_a_known_vector_are_matched_at_that_distance(seed, generator):
    problems, shift = at_the_first_well(problems_of(generator)), 0.3
    tables = tables_of(wells(), wells(shift), problems, levels=[4], seed=seed, starts=6)
    unit = float(SCHEDULE.sigma[4]) * 2
    counts = values(tables, "minima_count", "model")
    assert counts.max() == 2
    np.testing.assert_allclose(values(tables, "match_distance"), shift / unit, rtol=1e-5)
    np.testing.assert_allclose(values(tables, "right_distance"), shift / unit, rtol=1e-5)
    assert (values(tables, "right_shared") == 1).all()
    assert (values(tables, "shared_share") == 1).all()
    away = tables["matches"].to_pandas().query("right")
    np.testing.assert_allclose(away["answer_distance"], 0, atol=1e-5)
    np.testing.assert_allclose(away["other_answer_distance"], shift / unit, rtol=1e-5)
    # Out of reach of one another, all of them are alone.
    tables = tables_of(
        wells(), wells(shift), problems, levels=[4], seed=seed, starts=6, reach=0.9 * shift / unit
    )
    assert (values(tables, "minima_shared") == 0).all()
    assert (values(tables, "minima_alone", "model") == counts).all()
    assert (values(tables, "right_shared") == 0).all()
    np.testing.assert_allclose(values(tables, "right_distance"), shift / unit, rtol=1e-5)
    matches = tables["matches"].to_pandas()
    assert len(matches) == 2 * counts.sum()
    assert not (matches["in_model"] & matches["in_other"]).any()
    assert (matches["dE"].isna() == ~matches["in_model"]).all()
    assert (matches["other_dE"].isna() == ~matches["in_other"]).all()


def test_barriers_and_depths_are_those_of_the_wells_in_nats(seed, generator):
    problems, tilt = at_the_first_well(problems_of(generator)), 0.2
    tables = tables_of(wells(), wells(height=3.0), problems, levels=[4], seed=seed, starts=8, images=21)
    sigma = float(SCHEDULE.sigma[4])
    # The barrier is 1 and three times that, at an image of the path since their number is odd.
    for component, height in (("model", 1), ("other", 3)):
        found = frame_of(tables, "barrier", component)["value"].dropna()
        assert len(found)
        np.testing.assert_allclose(found, height / sigma, rtol=1e-6)
    found = frame_of(tables, "barrier_difference")["value"].dropna()
    np.testing.assert_allclose(found, (1 - 3) / sigma, rtol=1e-6)
    # Their paths are the same line.
    for component, height in (("model", 1), ("other", 3)):
        across = frame_of(tables, "barrier_across", component)["value"].dropna()
        np.testing.assert_allclose(across, height / sigma, rtol=1e-6)
    # Minima of (y² − 1)² + τy are the outer roots of 4y³ − 4y + τ.
    tables = tables_of(wells(), wells(tilt=tilt), problems, levels=[4], seed=seed, starts=8)
    roots = np.sort(np.roots([4, 0, -4, tilt]))

    def height(y):
        return (y**2 - 1) ** 2 + tilt * y

    found = frame_of(tables, "depth_difference")["value"].dropna()
    assert len(found)
    np.testing.assert_allclose(found, -(height(roots[0]) - height(roots[-1])) / sigma, rtol=1e-6)


def test_with_one_minimum_there_is_no_barrier_and_none_besides_the_right_one(generator):
    bowl = QuadraticEnergy(spectrum=torch.ones(4), eigenbasis=torch.eye(4), dim_x=4)
    tables = tables_of(bowl, wells(), problems_of(generator), levels=[4])
    assert reason(tables, "barrier", "model") == "fewer than two minima were found"
    assert reason(tables, "barrier_across", "other") == "fewer than two minima were found"
    assert reason(tables, "barrier_difference") == "fewer than two minima were found in one of the two"
    assert reason(tables, "depth_difference") == "no minimum besides the right ones is shared"
    assert (values(tables, "minima_count", "model") == 1).all()


def test_exchanging_the_networks_exchanges_sides_and_signs(seed, generator):
    problems, pair = problems_of(generator), (wells(0.05, 1.2, 0.1), wells())
    oracle = BayesOracle(SPEC)
    there, back = (tables_of(*order, problems, oracle, seed=seed) for order in (pair, pair[::-1]))
    swapped = {"model": "other", "other": "model"}
    signed = ("scaled_difference", "depth_difference", "barrier_difference")
    frame = there["metrics"].to_pandas()
    for name, component in {*zip(frame["metric"], frame["component"], strict=True)}:
        one = frame_of(there, name, component)["value"].to_numpy()
        other = frame_of(back, name, swapped.get(component, component))["value"].to_numpy()
        np.testing.assert_allclose(one, -other if name in signed else other, atol=1e-6, err_msg=name)
    assert set(there["matches"]["other"].to_pylist()) == {"b"}


def test_spectra_and_errors_are_those_at_the_shared_points(seed, generator):
    problems, energy, other = problems_of(generator), network(generator), network(generator)
    oracle = BayesOracle(SPEC)
    tables = tables_of(energy, other, problems, oracle, seed=seed, levels=[6], chunk=3, search_steps=1)
    x, y_star = (tensor_column(problems, name).flatten(1).double() for name in ("x", "y_star"))
    noise = normal_draws(seed, "q_sample", list(range(4)), 1, 4)[:, 0]
    y = q_sample(y_star, 6, noise, SCHEDULE)
    sigma = SCHEDULE.sigma[6]
    for component, each in (("model", energy), ("other", other), ("oracle", oracle)):
        expected = sigma * torch.linalg.eigvalsh(each.hessian(x, y, 6))
        np.testing.assert_allclose(values(tables, "scaled", component)[0], expected, atol=1e-10)
    # The optimum of inversion is H* = I/σ_t and ∇E* = ε.
    H = energy.hessian(x, y, 6)
    expected = (sigma * H - torch.eye(4)).norm(dim=(1, 2)) / 2
    np.testing.assert_allclose(values(tables, "hessian_error", "model")[0], expected)
    errors = [each.gradient(x, y, 6) - noise for each in (energy, other)]
    expected = errors[1].norm(dim=1) / noise.norm(dim=1)
    np.testing.assert_allclose(values(tables, "gradient_error", "other")[0], expected, rtol=1e-5)
    expected = torch.nn.functional.cosine_similarity(*errors)
    np.testing.assert_allclose(values(tables, "gradient_error_cosine")[0], expected, rtol=1e-4)
    expected = (errors[0] - errors[1]).norm(dim=1) / noise.norm(dim=1)
    np.testing.assert_allclose(values(tables, "gradient_difference", "oracle")[0], expected, rtol=1e-5)


def test_without_an_optimum_what_needs_it_says_so(generator):
    tables = tables_of(network(generator), network(generator), problems_of(generator))
    for name, component in (
        ("scaled", "oracle"),
        ("hessian_error", "model"),
        ("gradient_difference", "oracle"),
    ):
        assert reason(tables, name, component) == "no computable Bayes-optimal reference"
    values(tables, "gradient_difference", "mean")


def test_matching_is_the_best_of_all_choices(generator):
    for rows, columns in ((3, 4), (4, 2), (4, 4)):
        distance = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
        reach = 0.4
        found = optimal_matches(distance, reach)
        assert len(set(found[:, 0].tolist())) == len(set(found[:, 1].tolist())) == len(found)
        wide = distance if rows <= columns else distance.mT
        best = (0, 0.0)
        for choice in permutations(range(wide.shape[1]), wide.shape[0]):
            within = [float(wide[i, j]) for i, j in enumerate(choice) if wide[i, j] <= reach]
            best = min(best, (-len(within), sum(within)))
        total = float(distance[found[:, 0], found[:, 1]].sum())
        assert (-len(found), pytest.approx(total)) == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reach": 0.0}, r"difference.landscapes.reach: found 0.0; give a number above 0"),
        ({"images": 2}, r"difference.landscapes.images: found 2, needs at least 3"),
        ({"levels": [3, 3]}, r"difference.landscapes.levels: found \[3, 3\]; give one or more, each once"),
        ({"levels": [10]}, r"difference.landscapes.levels: found \[10\]; name levels of 0 … 9"),
        ({"vectors": 4}, r"difference.landscapes.vectors: found 4, allowed 1 … d − 1 = 3"),
    ],
)
def test_settings_out_of_range_are_named(options, message, generator):
    energy = network(generator)
    with pytest.raises(ConfigError, match=message):
        tables_of(energy, energy, problems_of(generator), **options)


def test_networks_for_other_problems_or_levels_are_refused(generator):
    energy, problems = network(generator), problems_of(generator)
    wide = MLPEnergy(EnergyMLP.random(9, 9, 12, generator).to(torch.float64))
    with pytest.raises(ConfigError, match="dim_x: found 4 and 9; compare networks for the same problems"):
        tables_of(energy, wide, problems)
    short = MLPEnergy(EnergyMLP(energy.model.parameters, replace(cosine_schedule(offset=0.1))))
    with pytest.raises(ConfigError, match="different noise levels"):
        tables_of(energy, short, problems)
