"""EXP-008: how kernels move in training, and what the figures show of all of it."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.ntk import ntk_table
from iredinterp.analyses.ntk.alignment import debiased_alignment
from iredinterp.analyses.ntk.block import Sampling
from iredinterp.analyses.ntk.course import Probe, course_table, linearisation_error
from iredinterp.analyses.ntk.course_drawing import figure_course
from iredinterp.analyses.ntk.drawing import figures
from iredinterp.analyses.ntk.kernels import gradient_kernel_trace
from iredinterp.analyses.ntk.names import FIRST, LAST
from iredinterp.energy import MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.course import snapshot_steps, trained_states
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import Phase, Recipe
from iredinterp.points import MODEL_KEYS, points_table, problems_table
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

TINY = Recipe(ProblemSpec("inverse", 2), hidden=8, phases=(Phase(30, 1e-2, False),), batch=16, warmup=2)
SETTINGS = {"snapshots": 6, "problems": 8, "levels": [9, 0]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rows_of(table, metric, component):
    frame = table.to_pandas()
    return frame[(frame["metric"] == metric) & (frame["component"] == component)]


def values_of(table, metric, component, seed, t):
    rows = rows_of(table, metric, component).query(f"seed == {seed} and t == {t}")
    return rows.sort_values("step")["value"].to_numpy()


def test_a_model_linear_in_its_parameters_has_no_linearisation_error(generator):
    x = normal(generator, 6, 3)

    def field(parameters):
        return x @ parameters["W"] + parameters["b"]

    before, after = ({"W": normal(generator, 3, 4), "b": normal(generator, 4)} for _ in range(2))
    assert (linearisation_error(field, before, after, groups=2) < 1e-12).all()
    assert linearisation_error(field, before, before).isnan().all()


def test_linearisation_error_falls_linearly_with_the_step_of_a_network(generator):
    model = EnergyMLP.random(4, 4, 8, generator).to(torch.float64)
    probe = Probe.draw(TINY, 8, [9, 3, 0], Sampling())
    direction = {name: normal(generator, *value.shape) for name, value in model.parameters.items()}
    sizes = 1e-3 * 2.0 ** -np.arange(5)
    errors = []
    for size in sizes:
        after = {name: value + size * direction[name] for name, value in model.parameters.items()}
        errors.append(linearisation_error(probe.field, model.parameters, after, 3))
    slopes = np.polyfit(np.log(sizes), torch.stack(errors).log().numpy(), 1)[0]
    assert np.allclose(slopes, 1, atol=0.05)


def test_a_course_measures_the_kernels_of_the_snapshots(seed):
    seeds = [seed % 1000, seed % 1000 + 1]
    table = course_table(TINY, "tiny", seeds, seed=seed % 100, **SETTINGS)
    at = snapshot_steps(TINY.steps, SETTINGS["snapshots"])
    probe = Probe.draw(TINY, 8, [9, 0], Sampling(seed=seed % 100))
    states = {state.step: state for state in trained_states(TINY, seeds, at)}
    weights = [{name: value[1].double() for name, value in states[step].raw.items()} for step in at.tolist()]
    kernels = torch.stack([probe.kernels(each)[1] for each in weights])
    found = values_of(table, "trace", "g", seeds[1], 0)
    assert np.allclose(found, kernels.diagonal(dim1=1, dim2=2).mean(1), rtol=1e-9)
    since_start = values_of(table, "kernel_change", FIRST, seeds[1], 0)
    velocity = values_of(table, "kernel_change", LAST, seeds[1], 0)
    assert np.isnan([since_start[0], velocity[0]]).all()
    assert np.allclose(
        since_start[1:], 1 - debiased_alignment(kernels[1:], kernels[:1].expand_as(kernels[1:]))
    )
    assert np.allclose(velocity[1:], 1 - debiased_alignment(kernels[1:], kernels[:-1]), atol=1e-12)
    errors = values_of(table, "linearisation_error", FIRST, seeds[1], 0)
    expected = [float(linearisation_error(probe.field, weights[0], each, 2)[1]) for each in weights[1:]]
    assert np.allclose(errors[1:], expected)
    assert set(table["step"].to_pylist()) == set(at.tolist())
    assert set(table["t"].to_pylist()) == {9, 0}


def test_the_points_of_a_course_are_q_samples_of_its_problems():
    probe = Probe.draw(TINY, 8, [7, 2], Sampling(seed=3))
    model = EnergyMLP.random(4, 4, 8, torch.Generator().manual_seed(0)).to(torch.float64)
    for index, t in enumerate((7, 2)):
        rows = slice(8 * index, 8 * index + 8)
        scale, sigma = probe.schedule.sqrt_alphas_cumprod[t], probe.schedule.sigma[t]
        answers = (probe.points.y[rows] - sigma * probe.noise[rows]) / scale
        product = probe.points.x[rows].view(-1, 2, 2) @ answers.view(-1, 2, 2)
        assert torch.allclose(product, torch.eye(2).double().expand(8, 2, 2), atol=1e-4)
        traced = gradient_kernel_trace(model, type(probe.points)(*(part[rows] for part in probe.points)))
        assert torch.allclose(probe.kernels(model.parameters)[index], traced.value)


def test_a_still_course_has_no_change_and_says_so():
    still = replace(TINY, phases=(Phase(6, 0.0, False),))
    table = course_table(still, "still", [0], snapshots=4, problems=6, levels=[5])
    assert np.allclose(rows_of(table, "kernel_change", FIRST)["value"].dropna(), 0, atol=1e-12)
    errors = rows_of(table, "linearisation_error", LAST)
    assert errors["value"].isna().all()
    assert errors["reason"].str.contains("nothing has changed").all()


def test_bad_settings_of_a_course_are_refused():
    with pytest.raises(ConfigError, match=r"ntk.course.snapshots: found 2, allowed ≥ 3"):
        course_table(TINY, "tiny", [0], snapshots=2)
    with pytest.raises(ConfigError, match=r"ntk.course.levels: found \[10\]; name levels of 0 … 9"):
        course_table(TINY, "tiny", [0], levels=[10])
    with pytest.raises(ConfigError, match=r"ntk.course.problems: found 3, needs at least 4"):
        course_table(TINY, "tiny", [0], problems=3)


@pytest.fixture(scope="module")
def metrics():
    """A network under two conditions, and the optimum, which has no kernel."""
    spec = TINY.problems
    generator = torch.Generator().manual_seed(0)
    problems = problems_table(draw_problems(spec, 6, generator))
    model = EnergyMLP.random(4, 4, 8, generator).to(torch.float64)
    other = EnergyMLP.random(4, 4, 8, generator).to(torch.float64)
    energies = {"trained": MLPEnergy(model), "random_init": MLPEnergy(other), "oracle": BayesOracle(spec)}
    found = []
    for condition, energy in energies.items():
        keys = dict.fromkeys(MODEL_KEYS) | {"model": "m", "condition": condition, "task": "inverse", "n": 2}
        points = points_table(energy, problems, keys, ["q_sample"], 0)
        found.append(ntk_table(energy, points, problems, permutations=10, top=3))
    return pa.concat_tables(found)


def lines(ax):
    return [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines]


def test_figures_show_what_the_table_holds_and_say_what_has_no_kernel(metrics):
    drawn = figures(metrics, "title", "note")
    assert list(drawn) == ["spectrum", "coupling", "alignment"]
    trained = metrics.filter(pc.equal(metrics["condition"], "trained"))

    def by_level(metric, component):
        return rows_of(trained, metric, component).sort_values("t", ascending=False)["value"].to_numpy()

    ranks = drawn["spectrum"].axes[4]
    assert any(np.allclose(line, by_level("effective_rank", "g")) for line in lines(ranks))
    residual = drawn["alignment"].axes[3]
    assert any(np.allclose(line, by_level("alignment", "g residual")) for line in lines(residual))
    for figure in drawn.values():
        texts = " ".join(text.get_text() for text in figure.texts)
        assert "without parameters, hence without kernels: oracle" in texts.replace("\n", " ")
    image = drawn["coupling"].axes[0].images[0]
    shown = np.asarray(image.get_array())
    assert (image.norm.vmin, image.norm.vmax) == (-1, 1)
    assert np.allclose(shown, shown.T)
    pair = rows_of(trained, "level_coupling", "same problem").query("t == 9 and t2 == 0")["value"].item()
    assert shown[0, -1] == pytest.approx(pair)
    certain = rows_of(trained, "level_coupling_low", "other problems")["value"] > 0
    certain |= (rows_of(trained, "level_coupling_high", "other problems")["value"] < 0).to_numpy()
    pairs = rows_of(trained, "level_coupling_low", "other problems")[certain]
    marked = len(pairs) + (pairs["t"] != pairs["t2"]).sum()
    assert len(drawn["coupling"].axes[2].collections[0].get_offsets()) == marked


def test_the_figure_of_a_course_shows_its_measures_and_refuses_two_courses():
    table = course_table(TINY, "tiny", [0], **SETTINGS)
    figure = figure_course(table, "title")
    headings = [ax.get_title() for ax in figure.axes]
    velocity = figure.axes[[heading.startswith("kernel velocity") for heading in headings].index(True)]
    expected = values_of(table, "kernel_change", LAST, 0, 9)[1:]
    assert any(np.allclose(line, expected) for line in lines(velocity) if len(line) == len(expected))
    two = pa.concat_tables([table, course_table(TINY, "other", [0], **SETTINGS)])
    with pytest.raises(TableError, match="one course; found other, tiny"):
        figure_course(two)
