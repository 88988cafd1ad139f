"""Figures of EXP-010 that compare: ways through the levels, and energies with errors."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.annealing.names import ANSWER, FULL, LEVELS, RUNS
from iredinterp.figures import confidence_band, panel_grid, style
from iredinterp.panels import (
    BOOTSTRAP,
    CONDITION_COLORS,
    REFERENCE,
    condition_handles,
    framed,
    metric_rows,
    one_model,
    plain_logarithms,
    points_drawn,
    reference_handle,
)


@style()
def figure_arms(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Final error of every arm against the full anneal, for the model and both of its optima.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    answers = {name: one_model(table, ANSWER) for name, table in tables.items()}
    shown = [name for name in ("trained", "oracle_noise", "oracle") if name in answers]
    gradients = _arms(answers["trained"])
    figure, (axes,) = panel_grid(1, 2, 3.5, 3.2, sharey=True)
    for place, arm in enumerate(gradients):
        _interval(axes[1], answers["trained"], "arm_error", arm, place, "trained")
        for offset, name in zip((-0.2, 0, 0.2), shown if arm != FULL else (), strict=False):
            _interval(axes[0], answers[name], "arm_log_ratio", arm, place + offset, name)
    labels = [f"{arm} ({count:g})" for arm, count in gradients.items()]
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    axes[0].set_xscale("symlog", linthresh=0.1, linscale=0.7)
    axes[0].axvline(0, **REFERENCE)
    axes[0].margins(x=0.15)
    axes[0].set_xlabel("ln(error / error of the full anneal)")
    axes[0].set_title("< 0: better than the full anneal")
    axes[1].set_xscale("log")
    plain_logarithms(axes[1].xaxis)
    axes[1].set_xlabel("‖ŷ − y*‖² / d")
    axes[1].set_title("error of the trained model")
    foot = (
        f"gradients per problem in brackets; medians over problems; {points_drawn(tables['trained'], ANSWER)}"
    )
    return framed(figure, title, note, foot + BOOTSTRAP, condition_handles(shown))


@style()
def figure_calibration(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """How well E at level 0 knows the error of an answer, under every condition.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    answers = {name: one_model(table, ANSWER) for name, table in tables.items()}
    figure, (axes,) = panel_grid(1, 4, 2.2, 2.5, sharey=True)
    headings = {
        "calibration_slope": ("slope · 2σ$_0$", 1),
        "calibration_r2": ("R²", 1),
        "calibration_rank": ("Spearman's ρ", 0),
        "wrong_answer_auroc": ("AUROC, wrong answers", 0.5),
    }
    for ax, (metric, (heading, reference)) in zip(axes, headings.items(), strict=True):
        for place, (name, table) in enumerate(answers.items()):
            known = [
                _interval(ax, table, metric, LEVELS, place - 0.15, name),
                _interval(ax, table, metric, RUNS, place + 0.15, name, "white"),
            ]
            if not any(known):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                ax.text(reference, place, "undefined", fontsize=6, ha="center", va="center", bbox=box)
        ax.axvline(reference, **REFERENCE)
        ax.set_title(heading)
    axes[0].set_xscale("symlog", linthresh=1)
    axes[0].set_yticks(range(len(answers)), [name.replace("_", " ") for name in answers])
    axes[0].set_ylim(len(answers) - 0.5, -0.5)
    dot = {"color": "0.3", "marker": "o", "linestyle": ""}
    handles = [
        Line2D([], [], **dot, label="answers after every level"),
        Line2D([], [], **dot, markerfacecolor="white", label="final answers of several runs"),
        reference_handle("exact (slope, R²), chance (ρ, AUROC)"),
    ]
    drawn = points_drawn(answers["trained"], ANSWER)
    foot = f"medians over problems; undefined where answers or their errors do not differ; {drawn}"
    return framed(figure, title, note, foot + BOOTSTRAP, handles)


def _arms(table: pa.Table) -> dict[str, float]:
    """Gradients that each arm spent, the full anneal first."""
    names = pc.unique(table.filter(pc.equal(table["metric"], "arm_error"))["component"]).to_pylist()
    names = [FULL, *sorted(set(names) - {FULL})]
    return {name: metric_rows(table, "arm_evaluations", name)["value"].max() for name in names}


def _interval(
    ax: Axes, table: pa.Table, metric: str, component: str, place: float, condition: str, face: str = ""
) -> bool:
    """Median over problems and its bootstrap interval, if the metric is defined anywhere."""
    values = metric_rows(table, metric, component)["value"].dropna().to_numpy(float)
    if not len(values):
        return False
    centre, low, high = (part.item() for part in confidence_band(values[:, None]))
    color = CONDITION_COLORS[condition]
    ax.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.5)
    ax.plot(centre, place, "o", color=color, markerfacecolor=face or color, markersize=4)
    return True
