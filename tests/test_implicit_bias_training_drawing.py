"""Figures of a course show what its tables hold, beside nulls, theory and reasons."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iredinterp.analyses.implicit_bias.course_tables import course_tables
from iredinterp.analyses.implicit_bias.names import SINGULAR, TURNED
from iredinterp.analyses.implicit_bias.training_drawing import figures
from iredinterp.errors import TableError
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.ired.training import Phase, Recipe
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

ADDITION = Recipe(ProblemSpec("addition", 3), hidden=16, phases=(Phase(150, 1e-2, False),), batch=32)
COMPLETION = replace(
    ADDITION, problems=ProblemSpec("completion", 3, rank=1, factors="positive", observed=0.8)
)
SETTINGS = {"snapshots": 14, "problems": 24, "hessian_problems": 2, "levels": [9, 0]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def addition():
    return course_tables(ADDITION, "addition", [0, 1], BayesOracle(ADDITION.problems), **SETTINGS)


@pytest.fixture(scope="module")
def completion():
    """One seed, without an optimum."""
    return course_tables(COMPLETION, "completion", [0], None, **SETTINGS)


def panel(figure, title):
    (found,) = [ax for ax in figure.axes if ax.get_title().startswith(title)]
    return found


def lines(ax):
    return [tuple(np.asarray(part, dtype=float) for part in line.get_data()) for line in ax.lines]


def has_line(ax, x, y):
    return any(
        a.shape == np.shape(x) and np.allclose(a, x) and np.allclose(b, y, equal_nan=True)
        for a, b in lines(ax)
    )


def rows(tables, metric, component=None):
    table = tables[0].filter(pc.equal(tables[0]["metric"], metric)).to_pandas()
    return table if component is None else table[table["component"] == component]


def said(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text)).replace("\n", " ")


def test_medians_of_times_and_the_exponents_are_those_of_the_table(addition):
    figure = figures(*addition, "a course", "a note")["modes"]
    medians = panel(figure, "median times")
    for kind in (SINGULAR, TURNED):
        size, time = (rows(addition, name, kind)["value"] for name in ("bin_size", "median_mode_time"))
        assert has_line(medians, size, time)
    exponents = panel(figure, "exponent")
    for row, kind in enumerate((SINGULAR, TURNED)):
        assert has_line(exponents, rows(addition, "exponent_mean", kind)["value"], [row])
    for alpha in (1, 2):
        assert has_line(exponents, [alpha, alpha], [0, 1])
    assert "a course" in said(figure)
    assert "a note" in said(figure)
    assert "2 training seeds" in said(figure)


def test_the_fit_has_its_exponent_as_slope_beside_the_lines_of_theory(addition):
    ax = panel(figures(*addition)["modes"], "when modes")
    slopes = [
        -np.polyfit(np.log(x), np.log(y), 1)[0] for x, y in lines(ax) if len(x) == 50 and np.isfinite(y).all()
    ]
    alpha = rows(addition, "exponent_mean", SINGULAR)["value"].item()
    assert sorted(slopes) == pytest.approx(sorted([alpha, 1, 2]))


def test_every_mode_has_a_dot_and_those_never_learnt_a_triangle_above_the_last_step(addition):
    ax = panel(figures(*addition)["modes"], "when modes")
    learnt, never = (np.asarray(collection.get_offsets()) for collection in ax.collections[:2])
    frame = addition[1].to_pandas()
    frame = frame[(frame["directions"] == SINGULAR) & (frame["size"] > 0)]
    assert len(learnt) == frame["upper"].notna().sum()
    assert len(never) == frame["upper"].isna().sum()
    assert (never[:, 1] > 150).all()
    assert (learnt[:, 1] <= 150).all()


def test_errors_hessians_and_ranks_are_medians_over_seeds(addition):
    figure = figures(*addition)["training"]
    error = rows(addition, "answer_mse", "")
    raw = error[error["weights"] == "raw"].groupby("step")["value"].median()
    assert has_line(panel(figure, "MSE"), raw.index, raw)
    for t in (9, 0):
        hessian = rows(addition, "hessian_error")
        hessian = hessian[hessian["t"] == t].groupby("step")["value"].median()
        assert has_line(panel(figure, "‖H"), hessian.index, hessian)
    rank = rows(addition, "change_effective_rank", "fc2").groupby("step")["value"].median()
    assert has_line(panel(figure, "rank of W − "), rank.index, rank)
    assert "level t = 9" in said(figure)
    # The linear map solves addition to rounding, which no axis should follow.
    assert panel(figure, "MSE").get_ylim()[0] > 1e-12
    assert "linear map" not in said(figure)


def test_where_there_is_no_optimum_no_second_mode_and_no_second_seed_figures_say_so(completion):
    found = figures(*completion)
    assert "no computable Bayes-optimal energy" in said(found["training"])
    assert "MSE, missing entries" in said(found["training"])
    assert "one mode each" in said(found["modes"])
    assert "1 training seed;" in said(found["modes"])


def test_a_course_in_which_nothing_is_learnt_has_a_figure_without_an_exponent(completion, addition):
    still = replace(ADDITION, phases=(Phase(3, 1e-9, False),))
    tables = course_tables(still, "still", [0, 1], None, **SETTINGS | {"snapshots": 4})
    assert "no exponent: no mode was learnt" in said(figures(*tables)["modes"])


def test_several_courses_do_not_fit_one_figure(addition, completion):
    both = [pa.concat_tables(pair) for pair in zip(addition, completion, strict=True)]
    with pytest.raises(TableError, match="one course; found addition, completion"):
        figures(*both)
