"""Figures of EXP-010. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.annealing.comparing import figure_arms, figure_calibration
from iredinterp.analyses.annealing.names import JUMP, MEASURED, PREDICTED, RANDOM, SINGULAR, STEP, TRAJECTORY
from iredinterp.figures import PALETTE, level_color, panel_grid, style
from iredinterp.panels import (
    BOOTSTRAP,
    CONDITION_COLORS,
    REFERENCE,
    by_condition,
    by_level,
    condition_handles,
    framed,
    level_axis,
    level_curve,
    logarithmic,
    model_and_optimum,
    one_model,
    optimum_curve,
    optimum_handle,
    points_drawn,
)

FIRST, SECOND, CHANCE = PALETTE["blue"], PALETTE["orange"], PALETTE["purple"]
# How far a logarithmic axis reaches below the smallest median of the model.
ROOM = 30
MOST_MODES = 5
PARTS = {JUMP: ("jump", FIRST), STEP: ("inner steps", SECOND)}
SHARES = (
    ("clamped", JUMP, "entries clamped, jump", PALETTE["green"]),
    ("clamped", STEP, "entries clamped, inner steps", PALETTE["sky"]),
    ("accept_disagreement", "", "decisions that differ in the other precision", PALETTE["vermillion"]),
)


def figures(metrics: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """All figures of one model.

    Args:
        metrics: of `annealing_table` under all conditions, "trained" among them.
        title: of every figure.
        note: a line below it.

    Returns:
        card, ledger, modes, arms and calibration.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = by_condition(metrics)
    draw = {
        "card": figure_card,
        "ledger": figure_ledger,
        "modes": figure_modes,
        "arms": figure_arms,
        "calibration": figure_calibration,
    }
    return {name: figure(tables, title, note) for name, figure in draw.items()}


@style()
def figure_card(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Which levels pay: error, its reduction, energy and acceptance per level.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table, best = model_and_optimum(tables, TRAJECTORY)
    figure, (axes,) = panel_grid(1, 4, 2.3, 2.3)
    black = CONDITION_COLORS["trained"]
    _log_curves(axes[0], table, best, "answer_error", {"": ("", black)})
    axes[0].set_title("‖ŷ − y*‖² / d after the level")
    level_curve(axes[1], table, "error_reduction", "", "", black)
    if "oracle_noise" in tables:
        color, noisy = CONDITION_COLORS["oracle_noise"], one_model(tables["oracle_noise"], TRAJECTORY)
        for ax, metric in zip(axes, ("answer_error", "error_reduction"), strict=False):
            level_curve(ax, noisy, metric, "", "", color)
    axes[1].axhline(0, **REFERENCE)
    axes[1].set_title("ln(error before / after)")
    _log_curves(axes[2], *(_negated(of, "energy_change") for of in (table, best)), "energy_change", PARTS)
    axes[2].set_title("−ΔE")
    level_curve(axes[3], table, "accept_rate", "", "", black)
    optimum_curve(axes[3], best, "accept_rate", "", black)
    axes[3].set_ylim(0, 1.05)
    axes[3].set_title("inner steps accepted")
    for ax in axes:
        level_axis(ax, table)
    gradients = by_level(table, "gradient_evaluations", "").median().sum()
    foot = f"{gradients:g} gradients in all, the same at every level; {points_drawn(table, TRAJECTORY)}"
    shown = [name for name in ("trained", "oracle_noise") if name in tables]
    handles = [*condition_handles(shown), *_handles(PARTS.values()), *_optimum(best)]
    return framed(figure, title, note, foot + BOOTSTRAP, handles)


@style()
def figure_ledger(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """How each level went: distance, contraction, stability, the law of the estimate's error, clamps.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table, best = model_and_optimum(tables, TRAJECTORY)
    figure, axes = panel_grid(2, 3, 3.0, 2.1, sharex=True)
    distance, jump, steps, stability, law, shares = axes.flat
    _log_curves(distance, table, best, "moved", PARTS)
    distance.set_title("distance moved / σ$_t$√d")
    for ax, part, name in ((jump, JUMP, "the jump"), (steps, STEP, "the first inner step")):
        level_curve(ax, table, "contraction", f"{part}, {PREDICTED}", "", SECOND, "--")
        level_curve(ax, table, "contraction", f"{part}, {MEASURED}", "", FIRST, ":")
        optimum_curve(ax, best, "contraction", f"{part}, {PREDICTED}", SECOND)
        ax.axhline(0, color="0.3", linewidth=0.6)
        ax.set_title(f"1 − hλ along {name}")
    level_curve(stability, table, "stability", "", "", PALETTE["black"])
    optimum_curve(stability, best, "stability", "", PALETTE["black"])
    stability.axhline(2, **REFERENCE)
    stability.set_title("2η$_t$λ$_{max}$ (overshoots above 2)")
    level_curve(law, table, "estimate_error", PREDICTED, "", SECOND, "--")
    level_curve(law, table, "estimate_error", MEASURED, "", FIRST, ":")
    logarithmic(law)
    law.set_title("RMS error of x̂$_0$")
    for metric, component, _, color in SHARES:
        level_curve(shares, table, metric, component, "", color)
    shares.set_ylim(-0.03, 1.03)
    shares.set_title("shares")
    for ax in axes.flat:
        level_axis(ax, table)
    for ax in axes[0]:
        ax.set_xlabel("")
    handles = [
        *_handles(PARTS.values()),
        Line2D([], [], color=SECOND, linestyle="--", label="predicted: curvature at the start, a$_t$δ$_t$"),
        Line2D([], [], color=FIRST, linestyle=":", label="measured"),
        *(Line2D([], [], color=color, label=label) for _, _, label, color in SHARES),
        *_optimum(best),
    ]
    return framed(figure, title, note, points_drawn(table, TRAJECTORY) + BOOTSTRAP, handles)


@style()
def figure_modes(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Errors along singular and along random directions, and their exponents.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table, _ = model_and_optimum(tables, TRAJECTORY)
    figure, (axes,) = panel_grid(1, 3, 3.1, 2.6)
    count = 1 + pc.max(table["index"]).as_py()
    shown = np.unique(np.linspace(0, count - 1, min(count, MOST_MODES)).round().astype(int)).tolist()
    names = {"relative_mode_error": "relative: e$_i$ / s$_i$", "mode_error": "absolute: e$_i$"}
    for ax, (metric, heading) in zip(axes, names.items(), strict=False):
        for component, linestyle in ((SINGULAR, "-"), (RANDOM, ":")):
            for i in shown:
                median = by_level(table.filter(pc.equal(table["index"], i)), metric, component).median()
                ax.plot(median.index, median, color=level_color(i, max(count, 2)), linestyle=linestyle)
        logarithmic(ax)
        ax.set_title(heading)
    ax = axes[2]
    level_curve(ax, table, "coarse_first_exponent", "relative", "", SECOND, "--")
    level_curve(ax, table, "coarse_first_exponent", "random relative", "", SECOND, ":")
    level_curve(ax, table, "coarse_first_exponent", RANDOM, "", "0.5", ":")
    if "oracle_noise" in tables:
        noisy = one_model(tables["oracle_noise"], TRAJECTORY)
        level_curve(ax, noisy, "coarse_first_exponent", "", "", CHANCE)
    level_curve(ax, table, "coarse_first_exponent", "", "", PALETTE["black"])
    for isotropic in (0, 1):
        ax.axhline(isotropic, **REFERENCE)
    ax.set_title("−d ln e$_i$ / d ln s$_i$  (> 0: large s$_i$ first)")
    for ax in axes:
        level_axis(ax, table)
    colors = [(i, level_color(i, max(count, 2))) for i in (shown[0], shown[-1])]
    handles = [
        *(Line2D([], [], color=color, label=f"singular direction {i + 1}") for i, color in colors),
        Line2D([], [], color="0.5", linestyle=":", label="random directions"),
        Line2D([], [], color=PALETTE["black"], label="absolute errors"),
        Line2D([], [], color=SECOND, linestyle="--", label="relative errors"),
        Line2D([], [], color=SECOND, linestyle=":", label="relative errors, random directions"),
        Line2D([], [], color=CHANCE, label="absolute errors, oracle noise"),
    ]
    foot = f"medians over problems; {points_drawn(table, TRAJECTORY)}{BOOTSTRAP}"
    return framed(figure, title, note, foot, handles)


def _log_curves(
    ax: Axes, table: pa.Table, best: pa.Table | None, metric: str, parts: Mapping[str, tuple[str, str]]
) -> None:
    """Components on a logarithmic axis that ends a little below the model, wherever the optimum lies."""
    medians = [by_level(table, metric, component).median() for component in parts]
    smallest = min((float(median[median > 0].min()) for median in medians if (median > 0).any()), default=1)
    for component, (_, color) in parts.items():
        level_curve(ax, table, metric, component, "", color)
        optimum_curve(ax, best, metric, component, color)
    logarithmic(ax, nonpositive="mask")
    ax.set_ylim(bottom=smallest / ROOM)


def _negated(table: pa.Table | None, metric: str) -> pa.Table | None:
    """The table with one metric's sign turned, that a logarithm may show a decrease."""
    if table is None:
        return None
    sign = pc.if_else(pc.equal(table["metric"], metric), -1.0, 1.0)
    return table.set_column(table.column_names.index("value"), "value", pc.multiply(table["value"], sign))


def _handles(parts: Iterable[tuple[str, str]]) -> list[Line2D]:
    return [Line2D([], [], color=color, label=label) for label, color in parts]


def _optimum(best: pa.Table | None) -> list[Line2D]:
    return [optimum_handle()] if best is not None else []
