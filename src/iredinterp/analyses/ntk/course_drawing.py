"""The figure of a course of EXP-008."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.ntk.names import FIRST, KERNEL, LAST
from iredinterp.figures import level_color, panel_grid, style
from iredinterp.panels import (
    described,
    framed,
    logarithmic,
    one_course,
    over_steps,
    plain_logarithms,
    rows_of,
    step_axis,
)

PANELS = (
    ("kernel_change", LAST, "kernel velocity\n1 − CKA since the last snapshot"),
    ("kernel_change", FIRST, "kernel turned\n1 − CKA since step 0"),
    ("linearisation_error", LAST, "linearisation error\nsince the last snapshot"),
    ("linearisation_error", FIRST, "linearisation error\nsince step 0"),
    ("alignment", f"{KERNEL} residual", "alignment of tr Θ$_g$ with\nthe residual ε − g"),
    ("trace", KERNEL, "tr Θ$_g$ of a problem with itself,\nmean"),
)


@style()
def figure_course(table: pa.Table, title: str = "", note: str = "") -> Figure:
    """How the kernel moves in training and whether the field follows its linearisation.

    Args:
        table: of `course_table`.
        title: of the figure.
        note: a line below it.

    Raises:
        TableError: no course, or several.
    """
    metrics = one_course(table)
    figure, axes = panel_grid(2, 3, 2.9, 2.1)
    levels = sorted(metrics["t"].unique(), reverse=True)
    for ax, (metric, component, heading) in zip(axes.T.flat, PANELS, strict=True):
        _draw(ax, rows_of(metrics, metric, component), levels)
        ax.set_title(heading)
        step_axis(ax, metrics)
        if metric == "trace":
            logarithmic(ax)
            plain_logarithms(ax.yaxis)
        elif metric == "linearisation_error":
            ax.set_ylim(bottom=0)
            ax.axhline(1, color="0.3", linestyle="--", linewidth=0.8)
        else:
            ax.axhline(0, color="0.3", linewidth=0.6)
    handles = [
        *(Line2D([], [], color=level_color(t), label=f"level t = {t}") for t in levels),
        Line2D([], [], color="0.3", linestyle="--", label="as wrong as to foretell no change"),
    ]
    foot = f"{described(metrics)}; raw weights; lines: medians over seeds, bands: their range"
    return framed(figure, title, note, foot, handles)


def _draw(ax: Axes, rows: pd.DataFrame, levels: list[int]) -> None:
    rows = rows.dropna(subset=["value"])
    for t in levels:
        over_steps(ax, rows[rows["t"] == t], level_color(t))
