"""Figures of EXP-004 and EXP-005 show what their tables hold, beside optimum, nulls and reasons."""

import secrets

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.grassmann import drawing as grassmann
from iredinterp.analyses.grassmann import grassmann_tables
from iredinterp.analyses.tangent import drawing as tangent
from iredinterp.analyses.tangent import tangent_table
from iredinterp.energy import MLPEnergy
from iredinterp.errors import TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.panels import CONDITION_COLORS, by_condition, by_level, metric_rows
from iredinterp.points import points_table, problems_table
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

SPECS = {
    "addition": ProblemSpec("addition", 3),
    "inverse": ProblemSpec("inverse", 3),
    "completion": ProblemSpec("completion", 3, rank=1, factors="positive", observed=0.8),
}
COUNT = 5


def measured(task, generator):
    """Tables of an untrained network as "trained" and of the optimal energy, both analyses."""
    spec = SPECS[task]
    problems = problems_table(draw_problems(spec, COUNT, generator))
    model = EnergyMLP.random(spec.dim_x, spec.dim_y, 16, generator).to(torch.float64)
    energies = {"trained": MLPEnergy(model), "oracle": BayesOracle(spec)}
    parts = {name: [] for name in ("tangent", "metrics", "displacements", "paths")}
    for condition, energy in energies.items():
        keys = {"model": "m", "family": "m", "condition": condition, "task": task, "n": 3, "rank": spec.rank}
        points = points_table(energy, problems, keys, ["q_sample"], seed=0)
        parts["tangent"].append(tangent_table(energy, points, problems))
        found = grassmann_tables(energy, problems, keys, draws=2, perturbations=6, steps=5)
        for name, table in zip(("metrics", "displacements", "paths"), found, strict=True):
            parts[name].append(table)
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}


def drawn(tables, title="m"):
    trained = tables["displacements"].filter(pc.equal(tables["displacements"]["condition"], "trained"))
    return {
        **tangent.figures(tables["tangent"], title, "It solves its task."),
        **grassmann.figures(tables["metrics"], trained, tables["paths"], title, "It solves its task."),
    }


def one(tables, name):
    """One of these figures alone."""
    if name in ("ratios", "shares", "conditions"):
        return getattr(tangent, f"figure_{name}")(by_condition(tables["tangent"]), "m")
    if name == "paths":
        return grassmann.figure_paths(by_condition(tables["paths"]), "m")
    shown = [tables["displacements"]] if name in ("arms", "correlation") else []
    return getattr(grassmann, f"figure_{name}")(by_condition(tables["metrics"]), *shown, "m")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines_of(ax, style):
    return [np.asarray(line.get_ydata(), float) for line in ax.lines if line.get_linestyle() == style]


def texts_of(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts] + [t.get_text() for t in figure.texts]


@pytest.mark.parametrize("task", SPECS)
def test_every_task_gets_every_figure_or_the_reason_why_not(task, generator):
    figures = drawn(measured(task, generator))
    assert set(figures) == {"ratios", "shares", "conditions", "arms", "effect", "correlation", "paths"}
    refused = [
        name for name, figure in figures.items() if any("not applicable" in text for text in texts_of(figure))
    ]
    assert refused == (["ratios", "shares", "conditions"] if task == "addition" else [])
    for figure in figures.values():
        assert "It solves its task." in texts_of(figure)


@pytest.fixture(scope="module")
def completion():
    seed = secrets.randbelow(2**31)
    print(f"seed = {seed}")
    return measured("completion", torch.Generator().manual_seed(seed))


def test_ratios_are_medians_beside_the_optimum_another_answer_and_the_isotropic_band(completion):
    figure = one(completion, "ratios")
    trained = by_condition(completion["tangent"])["trained"]
    optimal = by_condition(completion["tangent"])["oracle"]
    for ax, metric in zip(figure.axes, ("normal_tangent_ratio", "curvature_ratio"), strict=False):
        assert any(np.allclose(y, by_level(trained, metric).median()) for y in lines_of(ax, "-"))
        assert any(np.allclose(y, by_level(optimal, metric).median()) for y in lines_of(ax, "-."))
        other = by_level(trained, metric, "shuffled pair").median()
        assert any(np.allclose(y, other) for y in lines_of(ax, ":"))
    assert len(figure.axes) == 4


def test_shares_cross_blocks_with_observed_and_missing_entries(completion):
    figure = one(completion, "shares")
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    blocks = ["core", "column", "row", "normal"]
    cells = ["tangent observed", "tangent missing", "normal observed", "normal missing"]
    assert sorted(titles) == sorted(blocks + cells)
    core = next(ax for ax in figure.axes if ax.get_title() == "core")
    assert any(np.allclose(y, 1 / 9) for y in lines_of(core, "--"))


def test_arms_are_drawn_per_radius_and_over_the_core_arm(completion):
    figure = one(completion, "arms")
    assert [ax.get_title() for ax in figure.axes] == [
        "‖ΔY‖$_F$ = 0.3 σ$_t$√d",
        "‖ΔY‖$_F$ = 1 σ$_t$√d",
        "over the core arm",
    ]
    trained = by_condition(completion["metrics"])["trained"]
    large = trained.filter(pc.equal(trained["index"], 1))
    normal = by_level(large, "scaled_change", "normal").median()
    solid = lines_of(figure.axes[1], "-")
    assert any(np.allclose(y, normal) for y in solid) or normal.isna().any()


def test_the_effect_names_every_condition_and_says_where_it_is_undefined(completion):
    metrics = completion["metrics"]
    undefined = pa.array(np.full(metrics.num_rows, np.nan))
    is_ratio = pc.and_(pc.equal(metrics["metric"], "energy_ratio"), pc.equal(metrics["condition"], "trained"))
    values = pc.if_else(is_ratio, undefined, metrics["value"])
    reasons = pc.if_else(is_ratio, "why", metrics["reason"])
    for name, column in (("value", values), ("reason", reasons)):
        metrics = metrics.set_column(metrics.column_names.index(name), name, column)
    figure = one(completion | {"metrics": metrics}, "effect")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["trained", "oracle"]
    assert "undefined" in [text.get_text() for text in figure.axes[0].texts]


def test_paths_start_at_one_and_end_at_the_right_answer(completion):
    figure = one(completion, "paths")
    assert {ax.get_title() for ax in figure.axes} == {
        f"{name}, {path} path" for name in ("trained", "oracle") for path in ("straight", "subspace")
    }
    for ax in figure.axes[:2]:
        for line in ax.lines:
            assert line.get_ydata()[0] == pytest.approx(1)
            assert line.get_ydata()[-1] == pytest.approx(0, abs=1e-9)


def test_conditions_come_apart_and_a_table_without_the_trained_model_is_refused(completion):
    parts = by_condition(completion["metrics"])
    assert list(parts) == ["trained", "oracle"]
    assert set(parts) <= set(CONDITION_COLORS)
    assert sum(len(part) for part in parts.values()) == len(completion["metrics"])
    with pytest.raises(TableError, match="no rows of condition 'trained'; found oracle"):
        by_condition(parts["oracle"])


def test_a_curve_that_is_defined_nowhere_is_not_drawn(generator):
    """Where x determines the answer, the norm alone orders the optimal energy."""
    tables = measured("inverse", generator)
    figure = one(tables, "correlation")
    optimum = by_condition(tables["metrics"])["oracle"]
    assert metric_rows(optimum, "partial_correlation", "column")["value"].isna().all()
    assert len(lines_of(figure.axes[2], "-.")) == 0
    assert len(lines_of(figure.axes[1], "-.")) > 0
