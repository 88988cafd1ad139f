"""The figure of a course: when which property of the optimum appeared."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.difference.names import NEVER, PROPERTIES
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import described, framed, one_course, rows_of, step_axis

HEADINGS = {
    "gradient": "gradient near ∇E*",
    "hessian": "Hessian near H*",
    "isotropy": "as isotropic as H*",
    "inertia": "signs of curvature of H*",
    "single": "one minimum from all starts",
    "right": "a minimum at the answer",
}
COLORS = [PALETTE[name] for name in ("black", "blue", "vermillion", "green", "purple", "orange", "sky")]
ABSENT = {"color": "0.3", "marker": ">", "fillstyle": "none", "linestyle": "none"}
UNDEFINED = {"color": "0.3", "marker": "x", "linestyle": "none"}
# Of the rows of two seeds, in rows.
APART = 0.16


@style()
def figure_timeline(table: pa.Table, title: str = "", note: str = "") -> Figure:
    """First steps of all properties and seeds, a panel per level.

    Args:
        table: of `course_table`.
        title: of the figure.
        note: a line below it.

    Raises:
        TableError: no course, or several.
    """
    metrics = one_course(table)
    first = rows_of(metrics, "first_step")
    seeds, levels = sorted(first["seed"].unique()), sorted(first["t"].unique(), reverse=True)
    colors = dict(zip(seeds, COLORS * len(seeds), strict=False))
    figure, (axes,) = panel_grid(1, len(levels), 2.8, 2.6, sharey=True)
    for ax, t in zip(axes, levels, strict=True):
        step_axis(ax, metrics.dropna(subset=["step"]))
        _draw(ax, first[first["t"] == t], colors)
        ax.set_title(f"level t = {t}")
    axes[0].set_yticks(range(len(PROPERTIES)), [HEADINGS[name] for name in PROPERTIES])
    axes[0].set_ylim(len(PROPERTIES) - 0.5, -0.5)
    handles = [
        *(Line2D([], [], color=colors[s], marker="o", label=f"training seed {s:g}") for s in seeds),
        Line2D([], [], label="not by the last step", **ABSENT),
        Line2D([], [], label="the optimum lacks it, or is not known", **UNDEFINED),
    ]
    limits = rows_of(metrics, "tolerance").drop_duplicates("component").set_index("component")["value"]
    foot = f"{described(metrics)}; raw weights; tolerances: "
    foot += ", ".join(f"{name} {limits[name]:g}" for name in PROPERTIES)
    foot += (
        f"; {metrics['step'].nunique()} snapshots, the small ticks: a property appears between two of them"
    )
    for ax in axes:
        ax.set_xticks(sorted(metrics["step"].dropna().unique()), minor=True)
    return framed(figure, title, note, foot, handles)


def _draw(ax: Axes, rows: pd.DataFrame, colors: dict) -> None:
    """A line from the first step of each property to the end, one per seed."""
    start, end = ax.get_xlim()
    for place, name in enumerate(PROPERTIES):
        for index, (seed, color) in enumerate(colors.items()):
            height = place + APART * (index - (len(colors) - 1) / 2)
            (row,) = rows[(rows["component"] == name) & (rows["seed"] == seed)].itertuples()
            if pd.notna(row.value):
                ax.plot([row.value, end], [height, height], color=color, linewidth=1)
                ax.plot(row.value, height, "o", color=color, markersize=4, clip_on=False)
            elif row.reason != NEVER:
                ax.plot(start, height, **UNDEFINED | {"color": color}, clip_on=False)
            else:
                ax.plot(end, height, **ABSENT | {"color": color}, clip_on=False)
    ax.grid(axis="y", color="0.93")
