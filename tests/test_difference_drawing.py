"""Figures of two landscapes side by side show what their tables hold."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.difference import Settings, difference_tables
from iredinterp.analyses.difference.course import PROPERTIES, course_table
from iredinterp.analyses.difference.course_drawing import HEADINGS, figure_timeline
from iredinterp.analyses.difference.drawing import figures
from iredinterp.energy import MLPEnergy
from iredinterp.errors import TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import Phase, Recipe
from iredinterp.points import MODEL_KEYS, problems_table
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

SPEC = ProblemSpec("inverse", 2)
SETTINGS = Settings(count=3, levels=[9, 4, 0], vectors=1, starts=2, search_steps=5, path_steps=5)
TINY = Recipe(SPEC, hidden=8, phases=(Phase(20, 1e-2, False),), batch=16, warmup=2)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def metrics():
    generator = torch.Generator().manual_seed(0)
    problems, found = problems_table(draw_problems(SPEC, 3, generator)), []
    for condition in ("trained", "random_init"):
        pair = [MLPEnergy(EnergyMLP.random(4, 4, 8, generator).to(torch.float64)) for _ in range(2)]
        keys = [
            dict.fromkeys(MODEL_KEYS) | {"model": name, "condition": condition, "task": "inverse", "n": 2}
            for name in ("a", "b")
        ]
        found.append(difference_tables(*pair, problems, *keys, SETTINGS, BayesOracle(SPEC))["metrics"])
    return pa.concat_tables(found)


@pytest.fixture(scope="module")
def timeline():
    tolerances = dict.fromkeys(PROPERTIES, 0.9) | {"hessian": 0.0}
    settings = {"snapshots": 5, "problems": 2, "levels": [9, 0], "search_steps": 3}
    return course_table(TINY, "tiny", [0, 1], BayesOracle(SPEC), tolerances=tolerances, **settings)


def lines(ax):
    return [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines]


def rows_of(table, condition, metric, component):
    frame = table.to_pandas().query(
        "condition == @condition and metric == @metric and component == @component"
    )
    assert len(frame)
    return frame


def test_spectra_of_both_and_of_the_optimum_are_drawn_at_every_level(metrics):
    figure = figures(metrics, "title", "note")["spectra"]
    for ax, t in zip(figure.axes, (9, 4, 0), strict=True):
        assert ax.get_title() == f"level t = {t}"
        for component in ("model", "other", "oracle"):
            rows = rows_of(metrics, "trained", "scaled", component).query("t == @t")
            expected = rows.groupby("index")["value"].median()
            assert any(len(line) == 4 and np.allclose(line, expected) for line in lines(ax))


def test_the_summary_holds_differences_beside_untrained_networks_and_the_optimum(metrics):
    figure = figures(metrics, "title", "note")["summary"]
    panels = {ax.get_title(): ax for ax in figure.axes}

    def median(condition, metric, component):
        rows = rows_of(metrics, condition, metric, component)
        return rows.groupby("t")["value"].median().sort_index(ascending=False)

    for heading, form in (("gradients", "gradient"), ("Hessians", "hessian")):
        drawn = lines(panels[f"difference of {heading}"])
        for expected in (
            median("trained", f"{form}_difference", "mean"),
            median("random_init", f"{form}_difference", "mean"),
            median("trained", f"{form}_error", "other"),
        ):
            assert any(np.allclose(line, expected) for line in drawn)
    counts = rows_of(metrics, "trained", "minima_count", "other").groupby("t")["value"].mean()
    assert any(
        np.allclose(line, counts.sort_index(ascending=False)) for line in lines(panels["minima found"])
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["a", "b"]


def test_figures_of_several_pairs_or_without_trained_networks_are_refused(metrics):
    place = metrics.column_names.index("other")
    renamed = metrics.set_column(place, "other", pa.array(["c"] * len(metrics)))
    with pytest.raises(TableError, match="one pair; found other"):
        figures(pa.concat_tables([metrics, renamed]))
    with pytest.raises(TableError, match="no rows of condition 'trained'"):
        figures(metrics.filter(pc.equal(metrics["condition"], "random_init")))


def test_the_timeline_marks_first_steps_and_what_never_came(timeline):
    figure = figure_timeline(timeline, "tiny")
    frame = timeline.to_pandas()
    first = frame[frame["metric"] == "first_step"]
    for ax, t in zip(figure.axes, (9, 0), strict=True):
        assert ax.get_title() == f"level t = {t}"
        here = first[first["t"] == t]
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        drawn = sorted((round(float(line.get_ydata()[0])), float(line.get_xdata()[0])) for line in dots)
        known = here.dropna(subset=["value"])
        places = [(PROPERTIES.index(row.component), row.value) for row in known.itertuples()]
        assert drawn == sorted(places)
        never = [line for line in ax.lines if line.get_marker() == ">"]
        assert len(never) == here["value"].isna().sum() >= 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(HEADINGS.values())


def test_a_timeline_of_two_courses_is_refused(timeline):
    place = timeline.column_names.index("family")
    other = timeline.set_column(place, "family", pa.array(["other"] * len(timeline)))
    with pytest.raises(TableError, match="one course; found other, tiny"):
        figure_timeline(pa.concat_tables([timeline, other]))
