"""Figures of a course, the training clock of EXP-007."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.implicit_bias.mode_drawing import figure_modes
from iredinterp.errors import TableError
from iredinterp.figures import PALETTE, level_color, panel_grid, style
from iredinterp.panels import (
    STEPS,
    described,
    framed,
    logarithmic,
    over_steps,
    plain_logarithms,
    rows_of,
    step_axis,
)

LAYERS = {
    "fc1": PALETTE["blue"],
    "fc2": PALETTE["orange"],
    "fc3": PALETTE["green"],
    "fc4": PALETTE["vermillion"],
}
BASELINES = {
    "zero": ("zero", ":"),
    "mean": ("mean answer", "-."),
    "linear": ("linear map", "--"),
    "copy": ("copy of what is observed", (0, (1, 4))),
    "soft_impute": ("soft-impute", (0, (5, 1, 1, 1, 1, 1))),
}
# The spectrum drawn, of the layer in the middle of the network.
MIDDLE = "fc2"
# Of the largest; a change of single-precision weights is rounding below.
LEAST_DRAWN = 1e-4


def figures(metrics: pa.Table, times: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """Both figures of one course.

    Args:
        metrics: of `course_tables`.
        times: the mode times beside them.
        title: of every figure.
        note: a line below it.

    Returns:
        modes and training.

    Raises:
        TableError: no course, or several.
    """
    found, modes = metrics.to_pandas(), times.to_pandas()
    families = sorted(set(found["family"]) | set(modes["family"]))
    if len(families) != 1:
        raise TableError(
            f"figure: a figure shows one course; found {', '.join(families) or 'none'}: filter the tables"
        )
    return {"modes": figure_modes(found, modes, title, note), "training": figure_training(found, title, note)}


@style()
def figure_training(metrics: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Errors, distance to the Bayes-optimal Hessian, and weights over training.

    Args:
        metrics: of one course.
        title: of the figure.
        note: a line below the title.
    """
    figure, axes = panel_grid(2, 3, 3.1, 2.1)
    error, curvature, change, rank, change_rank, spectrum = axes.flat
    baselines = _draw_errors(error, metrics)
    levels = _draw_hessians(curvature, metrics)
    for layer, color in LAYERS.items():
        over_steps(change, rows_of(metrics, "relative_change", layer), color)
        for measure, linestyle in (("effective", "-"), ("stable", ":")):
            over_steps(rank, rows_of(metrics, f"weight_{measure}_rank", layer), color, linestyle)
            over_steps(change_rank, rows_of(metrics, f"change_{measure}_rank", layer), color, linestyle)
    change.set_title("‖W − W$_0$‖$_F$ / ‖W$_0$‖$_F$")
    rank.set_title("rank of W")
    change_rank.set_title("rank of W − W$_0$")
    for ax in (change, rank, change_rank):
        logarithmic(ax)
    _draw_spectrum(spectrum, metrics)
    for ax in axes.flat[:-1]:
        step_axis(ax, metrics)
    for ax in (rank, change_rank):
        plain_logarithms(ax.yaxis)
    handles = [
        Line2D([], [], color=PALETTE["black"], label="raw weights"),
        Line2D([], [], color=PALETTE["purple"], label="running average (EMA)"),
        *(
            Line2D([], [], color="0.4", linestyle=linestyle, linewidth=0.9, label=label)
            for label, linestyle in baselines
        ),
        *(Line2D([], [], color=level_color(t), label=f"level t = {t}") for t in levels),
        *(Line2D([], [], color=color, label=layer) for layer, color in LAYERS.items()),
        Line2D([], [], color="0.4", label="effective rank"),
        Line2D([], [], color="0.4", linestyle=":", label="stable rank"),
    ]
    foot = f"{described(metrics)}; lines: medians over seeds, bands: their range"
    return framed(figure, title, note, foot, handles)


def _draw_errors(ax: Axes, metrics: pd.DataFrame) -> list[tuple[str, object]]:
    """Error of the answers, on the entries that decide, beside predictors without a network."""
    errors = metrics[metrics["metric"] == "answer_mse"]
    deciding = "missing" if (errors["component"] == "missing").any() else ""
    errors = errors[errors["component"] == deciding]
    for weights, color in (("ema", PALETTE["purple"]), ("raw", PALETTE["black"])):
        over_steps(ax, errors[errors["weights"] == weights], color)
    values = rows_of(metrics, f"baseline_{deciding}_mse" if deciding else "baseline_mse").set_index(
        "component"
    )
    drawn = []
    least = errors["value"].min()
    for name, (label, linestyle) in BASELINES.items():
        # One that is exact would take the axis down to rounding.
        if name in values.index and values["value"][name] > least / 100:
            ax.axhline(values["value"][name], color="0.4", linestyle=linestyle, linewidth=0.9)
            drawn.append((label, linestyle))
    logarithmic(ax)
    ax.set_title(f"MSE, {deciding or 'all'} entries")
    return drawn


def _draw_hessians(ax: Axes, metrics: pd.DataFrame) -> list[int]:
    errors = rows_of(metrics, "hessian_error")
    ax.set_title("‖H − H*‖$_F$ / ‖H*‖$_F$")
    if errors["value"].isna().all():
        reason = textwrap.fill(errors["reason"].iloc[0], 30)
        ax.text(0.05, 0.5, reason, transform=ax.transAxes, fontsize=7)
        return []
    levels = sorted(errors["t"].dropna().astype(int).unique(), reverse=True)
    for t in levels:
        over_steps(ax, errors[errors["t"] == t], level_color(t))
    ax.set_ylim(bottom=0)
    return levels


def _draw_spectrum(ax: Axes, metrics: pd.DataFrame) -> None:
    """Singular values of the change of one layer, of the first seed, at a few snapshots."""
    rows = rows_of(metrics, "change_singular_value", MIDDLE)
    rows = rows[(rows["seed"] == rows["seed"].min()) & (rows["value"] > 0)]
    steps = sorted(rows["step"].unique())
    for position, step in enumerate(steps):
        values = rows[rows["step"] == step].sort_values("index")["value"].to_numpy()
        values = values[values > LEAST_DRAWN * values[0]]
        color = level_color(len(steps) - 1 - position, max(len(steps), 2))
        ax.plot(np.arange(1, len(values) + 1), values, color=color, linewidth=1)
        place = len(values) * (position + 1) // (len(steps) + 1)
        ax.annotate(f"{step:g}", (place + 1, values[place]), fontsize=6, color=color, va="bottom")
    logarithmic(ax)
    ax.set_xlabel(f"index; numbers: {STEPS}")
    ax.set_title(f"singular values of W − W$_0$, {MIDDLE}")
