"""Figures of EXP-006 show what their tables hold, beside chance and reasons."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.score import agreement_table, score_table
from iredinterp.analyses.score.drawing import figure_eigenmatrices, figure_overlap, figure_shares, figures
from iredinterp.energy import MLPEnergy
from iredinterp.errors import TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.panels import by_condition, by_level, metric_rows
from iredinterp.points import points_table, problems_table
from iredinterp.truth.analytic import GaussianPosterior, haar_orthogonal
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

SPECS = {
    "addition": ProblemSpec("addition", 3),
    "completion": ProblemSpec("completion", 3, rank=1, factors="positive", observed=0.8),
}
COUNT = 5


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def measured(task, generator, oracle=None):
    """Tables of an untrained network as "trained", its agreement with another, and of the optimal energy."""
    spec = SPECS[task]
    problems = problems_table(draw_problems(spec, COUNT, generator))
    trained, other = (
        MLPEnergy(EnergyMLP.random(spec.dim_x, spec.dim_y, 16, generator).to(torch.float64)) for _ in range(2)
    )
    oracle = oracle or BayesOracle(spec)
    tables = []
    for condition, energy in {"trained": trained, "oracle": oracle}.items():
        keys = {"model": "m", "family": "m", "condition": condition, "task": task, "n": 3, "rank": spec.rank}
        points = points_table(energy, problems, keys, ["q_sample"], seed=0)
        tables.append(score_table(energy, points, problems, vectors=3, oracle=oracle))
        if condition == "trained":
            tables.append(agreement_table(trained, other, points, problems, vectors=3))
    return pa.concat_tables(tables)


def of(table, condition):
    return table.filter(pc.equal(table["condition"], condition))


def said(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text)).replace("\n", " ")


def test_every_reference_has_a_panel_with_its_median_and_its_chance(generator):
    table = measured("completion", generator)
    axes = {ax.get_title(): ax for ax in figure_overlap(by_condition(table)).axes if ax.get_title()}
    panels = {"tangent space": "tangent", "missing entries": "missing", "another network": "other model"}
    assert panels.keys() <= axes.keys()
    assert len(axes) == 9
    trained = of(table, "trained")
    for title, name in panels.items():
        lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes[title].lines]
        for metric in ("overlap", "overlap_null"):
            expected = by_level(trained, metric, name).median().to_numpy()
            assert any(line.shape == expected.shape and np.allclose(line, expected) for line in lines), (
                title,
                metric,
            )


def test_where_the_optimum_has_no_jacobian_figures_say_so_and_draw_none(generator):
    drawn = figures(measured("addition", generator))
    assert set(drawn) == {"overlap", "eigenmatrices", "shares"}
    assert "below the noise floor" in said(drawn["overlap"])
    assert "0% of Bayes-optimal" in said(drawn["overlap"])
    pictures = drawn["eigenmatrices"]
    assert "Bayes-optimal: below the noise floor of the Jacobian" in said(pictures)
    assert not [ax for ax in pictures.axes if "Bayes-optimal" in ax.get_ylabel()]


def test_eigenmatrices_of_the_optimum_are_the_planted_ones(generator):
    Q = haar_orthogonal(9, generator)
    covariance = (Q * torch.tensor([9.0, 4.0] + [0.0] * 7, dtype=torch.float64)) @ Q.mT
    optimum = GaussianPosterior(slope=torch.eye(9), covariance=(covariance + covariance.mT) / 2)
    figure = figure_eigenmatrices(by_condition(measured("completion", generator, optimum)))
    rows = [ax for ax in figure.axes if ax.get_ylabel().startswith("Bayes-optimal")]
    assert len(rows) == 2
    for ax, planted in zip(rows, Q.mT[:2], strict=True):
        # The noisiest level is below the floor, the sharpest is the last of its row.
        last = figure.axes[figure.axes.index(ax) + 9]
        assert not ax.images
        assert "–" in said(figure)
        shown = np.asarray(last.images[0].get_array()).ravel()
        assert abs(shown @ planted.numpy()) == pytest.approx(1, abs=1e-8)


def test_shares_show_the_leading_eigenvalue_alone_beside_the_floor(generator):
    table = measured("completion", generator)
    axes = figure_shares(by_condition(table)).axes
    rows = of(table, "trained")
    first = rows.filter(pc.equal(rows["index"], 0))
    expected = by_level(first, "response_eigenvalue").median().to_numpy()
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes[1].lines]
    assert any(line.shape == expected.shape and np.allclose(line, expected) for line in lines)
    assert any(np.allclose(line, 0.2) for line in lines)
    dimensions = metric_rows(rows, "normal_dimension")["value"]
    markers = [line for line in axes[3].lines if line.get_marker() == "v"]
    assert dimensions.median() in [np.ravel(line.get_xdata())[0] for line in markers]


def test_a_table_without_a_trained_model_or_of_several_is_refused(generator):
    table = measured("addition", generator)
    with pytest.raises(TableError, match="no rows of condition 'trained'"):
        figures(of(table, "oracle"))
    index = table.column_names.index("model")
    other = table.set_column(index, "model", pa.array(["other"] * len(table)))
    with pytest.raises(TableError, match="one model"):
        figures(pa.concat_tables([table, other]))
