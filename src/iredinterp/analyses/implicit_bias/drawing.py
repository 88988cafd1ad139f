"""Figures of EXP-007 on the clock of inference. Levels run from the noisiest on the left to the sharpest."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.implicit_bias.names import (
    COMPARATORS,
    MATCHED,
    NUCLEAR,
    POSTERIOR,
    PROBLEM,
    RIGHT,
    SHAPES,
    SQUARES,
    TRAJECTORY,
    ZERO,
)
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import (
    BOOTSTRAP,
    CONDITION_COLORS,
    by_condition,
    by_level,
    condition_curves,
    condition_handles,
    framed,
    level_axis,
    level_curve,
    logarithmic,
    metric_rows,
    one_model,
    points_drawn,
)

HEADINGS = {
    "effective_rank": "effective rank",
    "nuclear_ratio": "‖Ŷ‖$_*$ / ‖Ŷ‖$_F$",
    "tail_energy": "share of energy beyond rank r",
}
# In the order in which lines that coincide are drawn on each other; not the colours of conditions (Tol 2021).
LINES = {
    RIGHT: ("0.8", "-", 5.0),
    SQUARES: ("#332288", "-", 1.4),
    POSTERIOR: ("#44AA99", "--", 1.4),
    NUCLEAR: ("#882255", "-", 1.4),
    ZERO: ("#999933", ":", 1.4),
}
NULL = "0.45"
# At the noisiest level answers are clamped, and pulls of any size are nothing but that.
PULLS = (-1, 2)


def figures(metrics: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """Both figures of one model.

    Args:
        metrics: of `implicit_bias_table` under all conditions, "trained" among them.
        title: of every figure.
        note: a line below it.

    Returns:
        spectrum and solution.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = by_condition(metrics)
    return {
        "spectrum": figure_spectrum(tables, title, note),
        "solution": figure_solution(tables, title, note),
    }


@style()
def figure_spectrum(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """How the spectrum of the answer forms, and what of it an error of the same size explains.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(tables["trained"], TRAJECTORY)
    own = one_model(tables["trained"], PROBLEM)
    figure, axes = panel_grid(2, len(SHAPES), 2.9, 2.1, sharex=True)
    shown = {name: tables[name] for name in ("trained", "oracle_noise", "oracle") if name in tables}
    for column, name in enumerate(SHAPES):
        value, excess = axes[:, column]
        level_curve(value, table, name, MATCHED, "", NULL, "--")
        condition_curves(value, shown, TRAJECTORY, name)
        right = metric_rows(own, name, RIGHT)["value"].median()
        if right == right:
            value.axhline(right, color=PALETTE["blue"], linestyle=":")
        value.set_title(HEADINGS[name])
        excess.axhline(0, color=NULL, linestyle="--")
        condition_curves(excess, tables, TRAJECTORY, f"{name}_excess")
        excess.set_title("less its matched-error null")
    for ax in axes[1]:
        level_axis(ax, table)
    handles = [
        *condition_handles(tables),
        Line2D([], [], color=NULL, linestyle="--", label="null: isotropic error of the model's size"),
        Line2D([], [], color=PALETTE["blue"], linestyle=":", label="the right answer's own"),
    ]
    foot = f"medians over problems; above: the model and its optima; {points_drawn(table, TRAJECTORY)}"
    return framed(figure, title, note, foot + BOOTSTRAP, handles)


@style()
def figure_solution(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Which completion the answer is near to, how firmly, and where the choice was open.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(tables["trained"], TRAJECTORY)
    facts = one_model(tables["trained"], PROBLEM)
    figure, axes = panel_grid(2, 3, 2.9, 2.2, sharex=True)
    distance, pull, misfit, shares, chosen, margin = axes.flat
    for name, (color, linestyle, width) in LINES.items():
        median = by_level(table, "distance", name).median()
        if median.notna().any():
            distance.plot(median.index, median, color=color, linestyle=linestyle, linewidth=width)
    logarithmic(distance)
    distance.set_title("RMS distance, free entries")
    _pulls(pull, tables, table)
    condition_curves(misfit, tables, TRAJECTORY, "misfit")
    if misfit.lines:
        logarithmic(misfit, nonpositive="mask")
        misfit.set_ylim(bottom=by_level(table, "misfit").median().min() / 10)
    misfit.set_title("RMS misfit, observed entries")
    differ = by_level(table, "pull", NUCLEAR).notna().any(axis=1)
    _stacked(shares, table, "nearest", differ[differ].index)
    shares.set_title(f"nearest, where ‖·‖$_*$ misleads ({differ.sum()} problems)")
    free = metric_rows(facts, "free_directions").set_index("problem_id")["value"]
    open_ = free[free > 0].index
    _stacked(chosen, table, "chosen", open_)
    chosen.set_title(f"chosen, where several fit ({len(open_)} problems)")
    condition_curves(margin, tables, TRAJECTORY, "margin")
    if margin.lines:
        margin.set_ylim(0, 1.6 * by_level(table, "margin").median().max())
    margin.set_title("ln(second-nearest / nearest)")
    for ax in axes[1]:
        level_axis(ax, table)
    handles = [
        *(
            Line2D([], [], color=color, linestyle=linestyle, linewidth=width, label=name)
            for name, (color, linestyle, width) in LINES.items()
        ),
        Line2D([], [], color=NULL, linestyle="--", label="0: error without direction"),
        *condition_handles(tables if misfit.lines else ()),
    ]
    determined = f"x determines {int((free == 0).sum())} of {len(free)} answers"
    foot = (
        f"medians over problems (shares: means); {determined}: least squares, posterior mean and "
        f"right answer are then one; {points_drawn(table, TRAJECTORY)}{BOOTSTRAP}"
    )
    return framed(figure, title, note, foot, handles)


def _pulls(ax: Axes, tables: Mapping[str, pa.Table], table: pa.Table) -> None:
    """Pull towards the least norm and towards zeros: the model with its band, oracle noise in purple."""
    ax.axhline(0, color=NULL, linestyle="--")
    for name in (NUCLEAR, ZERO):
        color, linestyle, _ = LINES[name]
        level_curve(ax, table, "pull", name, "", color, linestyle)
        if "oracle_noise" in tables:
            noisy = one_model(tables["oracle_noise"], TRAJECTORY)
            median = by_level(noisy, "pull", name).median()
            if median.notna().any():
                ax.plot(median.index, median, color=CONDITION_COLORS["oracle_noise"], linestyle=linestyle)
    ax.set_ylim(*PULLS)
    ax.set_title("pull: 0 right answer, 1 comparator")


def _stacked(ax: Axes, table: pa.Table, metric: str, problems: pd.Index) -> None:
    """Mean shares of the comparators by level, over some of the problems, or in words why there are none."""
    ax.set_ylim(0, 1)
    bottom = 0
    for name in COMPARATORS:
        shares = by_level(table, metric, name)
        mean = shares.loc[shares.index.intersection(problems)].mean()
        if mean.notna().any():
            ax.bar(mean.index, mean.fillna(0), 0.8, bottom, color=LINES[name][0])
            bottom = bottom + mean.fillna(0)
    if ax.patches:
        return
    if by_level(table, metric, ZERO).notna().any(axis=None):
        ax.text(0.03, 0.97, "no such problem", transform=ax.transAxes, va="top", fontsize=6, color="0.3")
    else:
        level_curve(ax, table, metric, ZERO, "", "0.3")
