"""Figures of EXP-002 show what their tables hold, beside optimum, nulls and reasons."""

import secrets

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.landscape import Settings, landscape_tables
from iredinterp.analyses.landscape.drawing import figures
from iredinterp.energy import MLPEnergy
from iredinterp.errors import TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.panels import by_level, metric_rows
from iredinterp.points import problems_table
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

SETTINGS = Settings(every=1, starts=3, runs=1, levels=(6, 0), slices=1, size=5, images=5, path_steps=5)
SPEC = ProblemSpec("addition", 2)


@pytest.fixture(scope="module")
def tables():
    """An untrained network as "trained", and the optimal energy; metrics of both, slices of the first."""
    seed = secrets.randbelow(2**31)
    print(f"seed = {seed}")
    generator = torch.Generator().manual_seed(seed)
    problems = problems_table(draw_problems(SPEC, 4, generator))
    network = EnergyMLP.random(SPEC.dim_x, SPEC.dim_y, 16, generator).to(torch.float64)
    oracle = BayesOracle(SPEC)
    found = {}
    for condition, energy in {"trained": MLPEnergy(network), "oracle": oracle}.items():
        keys = {"model": "m", "family": "m", "condition": condition, "task": "addition", "n": 2, "rank": None}
        found[condition] = landscape_tables(energy, problems, keys, SETTINGS, oracle)
    metrics = pa.concat_tables([part["metrics"] for part in found.values()])
    return metrics, found["trained"]["grid"], found["trained"]["tracks"]


@pytest.fixture(scope="module")
def drawn(tables):
    yield figures(*tables, "m", "It solves its task.")
    plt.close("all")


def texts(figure):
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(plt.Text))


def test_every_figure_says_what_it_is_of_and_what_was_drawn(drawn):
    assert set(drawn) == {"slices", "minima", "barriers"}
    for figure in drawn.values():
        said = texts(figure)
        assert "It solves its task." in said
        assert figure.legends
    assert "nats" in texts(drawn["barriers"])
    assert "4 problems" in texts(drawn["minima"])


def test_slices_have_a_panel_per_family_and_level_with_the_sampler_and_the_answer_in_it(drawn, tables):
    axes = drawn["slices"].axes
    assert len(axes) == 5 * len(SETTINGS.levels)
    track = tables[2].to_pandas().query("u_kind == 'top' and t == 6 and problem_id == 0").sort_values("move")
    way = next(line for line in axes[2].lines if len(line.get_xdata()) == len(track))
    np.testing.assert_allclose(way.get_xdata(), track["alpha"])
    np.testing.assert_allclose(way.get_ydata(), track["beta"])
    assert "lie on no manifold" in texts(drawn["slices"])
    for ax in axes[:4]:
        assert ax.get_xlim() == (-SETTINGS.extent, SETTINGS.extent)


def test_a_slice_is_drawn_with_alpha_to_the_right_and_beta_upwards(drawn, tables):
    grid = tables[1].to_pandas().query("u_kind == 'top' and t == 6 and problem_id == 0")
    image = np.asarray(drawn["slices"].axes[2].images[0].get_array())
    ordered = grid.sort_values(["beta", "alpha"])
    expected = np.arcsinh(ordered["dE"] / ordered["sigma"]).to_numpy().reshape(image.shape)
    np.testing.assert_allclose(image, expected)


def test_curves_of_minima_are_means_over_problems(drawn, tables):
    trained = tables[0].filter(pc.equal(tables[0]["condition"], "trained"))
    means = by_level(trained, "minima_count").mean()
    lines = [container.lines[0].get_ydata() for container in drawn["minima"].axes[0].containers]
    assert any(np.allclose(line, means) for line in lines)


def test_a_barrier_is_its_saddle_else_its_highest_image_else_none(drawn, tables):
    trained = tables[0].filter(pc.equal(tables[0]["condition"], "trained"))
    saddles, images = (
        metric_rows(trained, "barrier", part).query("t == 6")["value"] for part in ("saddle", "string")
    )
    expected = [
        next((value for value in pair if not np.isnan(value)), 0.0)
        for pair in zip(saddles, images, strict=True)
    ]
    line = drawn["barriers"].axes[0].lines[-1]
    heights, shares = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    np.testing.assert_array_equal(heights[1:-1], sorted(expected))
    np.testing.assert_allclose(shares, [0, *np.arange(1, len(expected) + 1) / len(expected), 1])


def test_tables_of_two_models_are_refused(tables):
    metrics, grid, tracks = tables
    other = grid.set_column(grid.column_names.index("model"), "model", pa.array(["k"] * len(grid)))
    with pytest.raises(TableError, match="a figure shows one model"):
        figures(metrics, pa.concat_tables([grid, other]), tracks)
