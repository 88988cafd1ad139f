"""Symmetries of the network that leave its energy alone, and what lies between two networks."""

import matplotlib
import matplotlib.pyplot as plt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.landscape.connectivity import (
    UNITS,
    Batch,
    Connection,
    bezier,
    connection,
    denoising_loss,
    fit_bend,
    loss_barrier,
    matched,
    permuted,
    straight,
)
from iredinterp.analyses.landscape.weights import _metrics, connectivity_table
from iredinterp.analyses.landscape.weights_drawing import figure_connectivity
from iredinterp.config import expanded_models
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.model import EnergyMLP, random_parameters
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import MODEL_KEYS
from iredinterp.truth.analytic import haar_orthogonal

matplotlib.use("Agg")

SPEC = ProblemSpec("addition", 3)
HIDDEN = 24
SCHEDULE = cosine_schedule()
TIMES = torch.linspace(0, 1, 7, dtype=torch.float64)


def drawn(generator):
    parameters = random_parameters(SPEC.dim_x, SPEC.dim_y, HIDDEN, generator)
    return {name: value.double() for name, value in parameters.items()}


def shuffled(parameters, generator):
    """The same function with the units of every layer renumbered and fc4 turned."""
    widths = {name: len(parameters[f"{units['out'][0]}.bias"]) for name, units in UNITS.items()}
    orders = {name: torch.randperm(width, generator=generator) for name, width in widths.items()}
    return permuted(parameters, orders, haar_orthogonal(SPEC.dim_y, generator))


def batch(generator, count=60):
    return Batch.draw(SPEC, count, SCHEDULE.levels, generator)


def stacked(parameters):
    return {name: value.unsqueeze(0) for name, value in parameters.items()}


def connected(seed, generator, other, condition="trained"):
    """The table of an untrained network and another made from it."""
    parameters = drawn(generator)
    pair = [MLPEnergy(EnergyMLP(part, SCHEDULE)) for part in (parameters, other(parameters, generator))]
    keys = {"model": "m", "family": "m", "condition": condition, "task": "addition", "n": 3}
    return connectivity_table(*pair, SPEC, keys, seed=seed, problems=40, steps=2, points=5)


def path_losses(table, path, metric="denoising_loss"):
    rows = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], path))
    return table.filter(rows).sort_by("index")["value"].to_pylist()


def value(table, metric, component=""):
    (found,) = path_losses(table, component, metric)
    return found


def test_renumbered_units_and_a_turned_last_layer_leave_energy_and_gradient_alone(generator):
    parameters = drawn(generator)
    other = shuffled(parameters, generator)
    assert any(not torch.equal(value, other[name]) for name, value in parameters.items())
    problems = draw_problems(SPEC, 20, generator)
    y = torch.randn(20, SPEC.dim_y, generator=generator, dtype=torch.float64)
    t = torch.arange(20) % SCHEDULE.levels
    for name in UNITS:
        width = len(parameters[f"{UNITS[name]['out'][0]}.bias"])
        alone = permuted(parameters, {name: torch.randperm(width, generator=generator)})
        pair = (EnergyMLP(part, SCHEDULE).energy(problems.x.double(), y, t) for part in (parameters, alone))
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)
    pair = (
        EnergyMLP(part, SCHEDULE).energy_and_gradient(problems.x.double(), y, t)
        for part in (parameters, other)
    )
    for found, expected in zip(*pair, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_network_and_its_own_renumbering_have_no_barrier_once_matched(generator):
    parameters = drawn(generator)
    other = shuffled(parameters, generator)
    found = matched(parameters, other)
    for name, value in parameters.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10)
    here = batch(generator)
    aligned = denoising_loss(straight(parameters, found, TIMES), SCHEDULE, here)
    assert loss_barrier(aligned).item() == pytest.approx(0, abs=1e-9)
    # Without matching the line between the two leaves the energy that both share.
    apart = denoising_loss(straight(parameters, other, TIMES), SCHEDULE, here)
    torch.testing.assert_close(apart[[0, -1]], aligned[[0, -1]], rtol=1e-9, atol=0)
    assert (apart[1:-1] - aligned[1:-1]).abs().max() > 1e-6


def test_matching_changes_no_energy_and_brings_weights_closer(generator):
    first, second = drawn(generator), drawn(generator)
    found = matched(first, second)
    here = batch(generator)
    pair = (denoising_loss(stacked(part), SCHEDULE, here) for part in (second, found))
    torch.testing.assert_close(*pair, rtol=1e-9, atol=0)

    def apart(other):
        return sum((value - other[name]).square().sum() for name, value in first.items())

    assert apart(found) < apart(second)


def test_the_loss_is_the_mean_square_error_of_the_predicted_noise(generator):
    parameters, here = drawn(generator), batch(generator)
    network = EnergyMLP(parameters, SCHEDULE)
    energy = CallableEnergy(network.energy, SPEC.dim_x, SPEC.dim_y)
    scale, sigma = (part[here.t][:, None] for part in (SCHEDULE.sqrt_alphas_cumprod, SCHEDULE.sigma))
    gradient = energy.gradient(here.x, scale * here.y_star + sigma * here.noise, here.t)
    found = denoising_loss(stacked(parameters), SCHEDULE, here)
    torch.testing.assert_close(
        found.item(), (gradient - here.noise).square().mean().item(), rtol=1e-10, atol=0
    )


def test_a_stack_of_networks_has_the_losses_of_its_members(generator):
    first, second, here = drawn(generator), drawn(generator), batch(generator)
    path = straight(first, second, TIMES)
    together = denoising_loss(path, SCHEDULE, here)
    for index in range(len(TIMES)):
        one = {name: value[index : index + 1] for name, value in path.items()}
        torch.testing.assert_close(
            denoising_loss(one, SCHEDULE, here)[0], together[index], rtol=1e-10, atol=0
        )


def test_a_curve_between_equal_ends_has_no_barrier(seed, generator):
    parameters = drawn(generator)
    options = {"steps": 3, "learning_rate": 0.05, "times": TIMES, "generator": generator}
    bend = fit_bend(parameters, parameters, SCHEDULE, batch(generator), batch(generator), **options)
    losses = denoising_loss(bezier(parameters, bend, parameters, TIMES), SCHEDULE, batch(generator))
    assert loss_barrier(losses).item() == pytest.approx(0, abs=1e-14)


def test_a_quadratic_curve_passes_through_its_ends_and_halfway_to_its_bend(generator):
    start, bend, end = (drawn(generator) for _ in range(3))
    path = bezier(start, bend, end, TIMES)
    for name, value in path.items():
        torch.testing.assert_close(value[0], start[name])
        torch.testing.assert_close(value[-1], end[name])
        torch.testing.assert_close(value[3], (start[name] + 2 * bend[name] + end[name]) / 4)


def test_a_trained_bend_is_kept_only_where_it_lowers_the_barrier(generator):
    start, end, here = drawn(generator), drawn(generator), batch(generator)
    start, end = ({name: 3 * value for name, value in part.items()} for part in (start, end))
    options = {"steps": 5, "learning_rate": 0.01, "times": TIMES, "generator": generator}
    bend = fit_bend(start, end, SCHEDULE, batch(generator), here, **options)
    line, curve = straight(start, end, TIMES), bezier(start, bend, end, TIMES)
    before, after = (loss_barrier(denoising_loss(path, SCHEDULE, here)) for path in (line, curve))
    assert after <= before + 1e-9


def test_between_a_network_and_its_own_renumbering_only_the_unmatched_line_rises(seed, generator):
    parameters = {name: 3 * value for name, value in drawn(generator).items()}
    networks = (EnergyMLP(part, SCHEDULE) for part in (parameters, shuffled(parameters, generator)))
    found = connection(*networks, SPEC, seed, problems=40, steps=2, points=5)
    start, end = found.ends.tolist()
    assert start == pytest.approx(end, rel=1e-9)
    assert set(found.losses) == {"straight", "matched", "bezier"}
    assert found.barriers["matched"].item() == pytest.approx(0, abs=1e-7 * start)
    assert found.barriers["bezier"].item() == pytest.approx(0, abs=1e-7 * start)
    assert found.barriers["straight"] >= 0
    assert (found.losses["straight"][1:-1] - start).abs().max() > 1e-6 * start


def test_the_table_of_a_network_and_its_own_renumbering_has_no_matched_barrier(seed, generator):
    table = connected(seed, generator, shuffled)
    assert value(table, "barrier", "matched") == pytest.approx(0, abs=1e-10)
    assert value(table, "end_loss", "own") == pytest.approx(value(table, "end_loss", "partner"), abs=1e-10)


def test_the_table_holds_the_losses_and_what_follows_from_them(seed, generator):
    table = connected(seed, generator, lambda parameters, generator: drawn(generator))
    assert set(MODEL_KEYS) < set(table.column_names)
    assert set(table["point_kind"].to_pylist()) == {"q_sample"}
    assert table["problem_id"].null_count == table["t"].null_count == len(table)
    zero, ends = value(table, "zero_loss"), [value(table, "end_loss", name) for name in ("own", "partner")]
    for path in ("straight", "matched", "bezier"):
        losses = path_losses(table, path)
        assert len(losses) == 5
        assert [losses[0], losses[-1]] == pytest.approx(ends, rel=1e-9)
        assert value(table, "barrier", path) == pytest.approx(max(losses) - max(ends), abs=1e-12)
    # ε has unit variance: 40 × 9 squares of mean 1 and variance 2.
    assert zero == pytest.approx(1, abs=6 * (2 / 360) ** 0.5)


def test_a_barrier_is_a_share_of_the_gain_only_where_there_is_one(seed, generator):
    untrained = connected(seed, generator, lambda parameters, generator: drawn(generator))
    shares = untrained.filter(pc.equal(untrained["metric"], "barrier_share"))
    assert shares["value"].null_count == len(shares) == 3
    assert all("predicting no noise" in reason for reason in shares["reason"].to_pylist())

    losses = {"straight": [0.2, 0.8, 0.4], "matched": [0.2, 0.5, 0.4], "bezier": [0.2, 0.3, 0.4]}
    found = Connection({name: torch.tensor(path) for name, path in losses.items()}, torch.tensor(1.2))
    gained = {metric.component: metric.values.item() for metric in _metrics(found) if "share" in metric.name}
    assert gained == pytest.approx({"straight": 0.5, "matched": 0.125, "bezier": 0.0})


def test_the_figure_shows_the_losses_of_every_path_and_condition(seed, generator):
    pair = {name: connected(seed, generator, shuffled, name) for name in ("trained", "random_init")}
    figure = figure_connectivity(pa.concat_tables(pair.values()), "m", "It solves its task.")
    try:
        assert len(figure.axes) == 3
        for table, ax in zip(pair.values(), figure.axes, strict=False):
            drawn_lines = [line.get_ydata() for line in ax.lines]
            for path, line in zip(("straight", "matched", "bezier"), drawn_lines, strict=False):
                assert list(line) == pytest.approx(path_losses(table, path))
            assert drawn_lines[3][0] == value(table, "zero_loss")
        said = " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(plt.Text))
        for words in ("It solves its task.", "random init", "predicting no noise", "undefined"):
            assert words in said
    finally:
        plt.close(figure)


def test_the_figure_refuses_a_null_without_the_trained_pair(seed, generator):
    with pytest.raises(TableError, match="no rows of condition 'trained'"):
        figure_connectivity(connected(seed, generator, shuffled, "random_init"))


def test_only_families_of_several_seeds_have_a_partner():
    problem = {"task": "addition", "n": 3, "rank": None, "kappa": None, "noise": 0}
    family = {"permuted": None, "problems": "sums", "weights": "ema"}
    models = {
        "several": family | {"checkpoint": "several-{seed}.pt", "seeds": [4, 5, 6]},
        "single": family | {"checkpoint": "single.pt", "seeds": []},
        "one": family | {"checkpoint": "one-{seed}.pt", "seeds": [4]},
    }
    config = {"models": models, "problems": {"sums": problem}, "planted": {"seed": 0}}
    found = expanded_models(config | {"figures": {"conditions": None}})
    partners = {name: entry["partner"] for name, entry in found.items()}
    assert partners == {
        "several-seed4": ["several-5.pt"],
        "several-seed5": ["several-4.pt"],
        "several-seed6": ["several-4.pt"],
        "single": [],
        "one-seed4": [],
        "planted-sums": [],
    }


@pytest.mark.parametrize(("name", "value"), [("points", 2), ("problems", 9), ("steps", -1)])
def test_settings_out_of_range_are_refused(name, value, generator):
    network = EnergyMLP(drawn(generator), SCHEDULE)
    with pytest.raises(ConfigError, match=rf"connectivity.{name}: found {value}, needs at least"):
        connection(network, network, SPEC, **{name: value})


def test_a_table_of_networks_of_different_shapes_is_refused(generator):
    first, second = (
        MLPEnergy(EnergyMLP.random(SPEC.dim_x, SPEC.dim_y, width, generator)) for width in (HIDDEN, 8)
    )
    with pytest.raises(ConfigError, match="compare networks of one family"):
        connectivity_table(first, second, SPEC, {}, problems=10, steps=0, points=3)


def test_networks_of_different_shapes_are_refused(generator):
    other = random_parameters(SPEC.dim_x, SPEC.dim_y, HIDDEN + 1, generator)
    with pytest.raises(
        ConfigError, match=r"connectivity: fc1.weight: expected .* compare networks of one family"
    ):
        matched(drawn(generator), {name: value.double() for name, value in other.items()})
