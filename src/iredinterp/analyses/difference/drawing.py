"""Figures of two landscapes side by side. Level axes run from the noisiest level to the sharpest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iredinterp.errors import TableError
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import (
    CONDITION_COLORS,
    OPTIMUM,
    REFERENCE,
    by_condition,
    by_level,
    framed,
    level_axis,
    level_curve,
    one_model,
    points_drawn,
    reference_handle,
)

# The other is thinner, and drawn over the model: they often coincide.
SIDES = {
    "model": {"color": PALETTE["black"], "linewidth": 2.4},
    "other": {"color": PALETTE["blue"], "linewidth": 1},
}
# Of differences, which belong to neither.
BETWEEN = PALETTE["purple"]
# Scale of distances between minima: untrained networks have them hundreds of times further apart.
LINEAR_BELOW = 0.1
UNTRAINED = {"color": CONDITION_COLORS["random_init"], "linewidth": 1}


def figures(metrics: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """All figures of one pair.

    Args:
        metrics: of `difference_tables` of the trained networks, and of untrained ones if they are there.
        title: of every figure.
        note: a line below it.

    Returns:
        spectra and summary.

    Raises:
        TableError: no trained networks, or several pairs.
    """
    tables = by_condition(metrics)
    others = pc.unique(metrics["other"]).to_pylist()
    if len(others) > 1:
        raise TableError(f"figure: a figure shows one pair; found other {others}: filter the table first")
    return {
        "spectra": figure_spectra(tables, title, note),
        "summary": figure_summary(tables, title, note),
    }


@style()
def figure_spectra(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Scaled spectra of both networks at the same points, a panel per level, over that of the optimum.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(tables["trained"], "q_sample")
    spectra = {name: _spectra(table, name) for name in (*SIDES, "oracle")}
    levels = sorted(spectra["model"], reverse=True)
    columns = min(6, len(levels))
    figure, axes = panel_grid(-(-len(levels) // columns), columns, 1.75, 1.9, sharex=True, sharey=True)
    for ax in axes.flat[len(levels) :]:
        ax.set_axis_off()
    for ax, t in zip(axes.flat, levels, strict=False):
        for name, look in SIDES.items():
            low, median, high = np.quantile(spectra[name][t], [0.025, 0.5, 0.975], axis=0)
            number = np.arange(1, len(median) + 1)
            ax.fill_between(number, low, high, color=look["color"], alpha=0.2, linewidth=0)
            ax.plot(number, median, **look)
        ax.plot(number, np.median(spectra["oracle"][t], axis=0), color=PALETTE["green"], linestyle="--")
        ax.axhline(0, color="0.3", linewidth=0.6)
        ax.set_title(f"level t = {t}")
    for ax in axes[:, 0]:
        ax.set_ylabel("σ$_t$λ (dimensionless)")
    for ax in axes[-1]:
        ax.set_xlabel("eigenvalue, ascending")
    handles = [
        *(Line2D([], [], label=_name(table, side), **look) for side, look in SIDES.items()),
        Line2D([], [], color=PALETTE["green"], linestyle="--", label=f"{OPTIMUM} energy"),
        Patch(color="0.3", alpha=0.2, linewidth=0, label="middle 95 % of problems"),
    ]
    foot = f"medians over problems; {points_drawn(table, 'q_sample')}, the same for both"
    return framed(figure, title, note, foot, handles)


@style()
def figure_summary(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Gradients, Hessians and minima of both networks against the level, beside untrained ones.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    fields, minima = (
        {name: one_model(table, kind) for name, table in tables.items()} for kind in ("q_sample", "minimum")
    )
    table = fields["trained"]
    figure, axes = panel_grid(2, 4, 2.5, 2.1)
    for ax, name, heading in zip(axes[0], ("gradient", "hessian"), ("gradients", "Hessians"), strict=False):
        _errors(ax, fields, name)
        ax.set_title(f"difference of {heading}")
        ax.set_ylabel("‖A − B‖ / mean norm")
    for name, label, color in (
        ("gradient", "gradients", BETWEEN),
        ("hessian", "Hessians", PALETTE["orange"]),
    ):
        level_curve(axes[0, 2], table, f"{name}_error_cosine", "", label, color)
    axes[0, 2].axhline(0, **REFERENCE)
    axes[0, 2].set_title("are their errors the same?")
    axes[0, 2].set_ylabel("cosine of A − optimum\nand B − optimum")
    for end, color in (("high", BETWEEN), ("low", PALETTE["orange"])):
        level_curve(axes[0, 3], table, "eigenspace_overlap", end, end, color)
    chance = by_level(table, "eigenspace_overlap_chance", "high").median()
    axes[0, 3].plot(chance.index, chance, **REFERENCE)
    axes[0, 3].set_ylim(0, 1.03)
    axes[0, 3].set_title("eigenspaces of H")
    axes[0, 3].set_ylabel("overlap (0 to 1)")
    for ax, metric, heading, label in (
        (axes[1, 0], "minima_count", "minima found", "number, mean"),
        (axes[1, 2], "barrier", "barrier to the lowest other", "nats, mean"),
    ):
        for side, look in SIDES.items():
            _means(ax, minima, metric, side, look)
        ax.set_title(heading)
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
    _means(axes[1, 1], minima, "shared_share", "", {"color": BETWEEN})
    axes[1, 1].set_ylim(0, 1.03)
    axes[1, 1].set_title("minima in both")
    axes[1, 1].set_ylabel("shared share, mean")
    _means(axes[1, 3], minima, "right_distance", "", {"color": BETWEEN})
    axes[1, 3].set_yscale("symlog", linthresh=LINEAR_BELOW)
    axes[1, 3].set_ylim(bottom=0)
    axes[1, 3].set_title("between the right minima")
    axes[1, 3].set_ylabel("distance / σ$_t$√d, mean")
    for ax in axes.flat:
        level_axis(ax, table)
    for ax in axes[0, 2:]:
        ax.legend()
    handles = [
        *(Line2D([], [], label=_name(table, side), **look) for side, look in SIDES.items()),
        Line2D([], [], color=BETWEEN, label="between the two"),
        Line2D([], [], label="two untrained networks", **UNTRAINED),
        Line2D([], [], color="0.3", linestyle=":", label="each from the optimum, same colours"),
        reference_handle("chance; unrelated errors"),
    ]
    foot = "medians over problems and 95 % bootstrap bands, unless it says mean; "
    foot += points_drawn(table, "q_sample")
    return framed(figure, title, note, foot, handles)


def _errors(ax: Axes, tables: Mapping[str, pa.Table], name: str) -> None:
    """The difference of the two, that of untrained networks, and how far each is from the optimum."""
    level_curve(ax, tables["trained"], f"{name}_difference", "mean", "", BETWEEN)
    for side, look in SIDES.items():
        median = by_level(tables["trained"], f"{name}_error", side).median()
        if median.notna().any():
            ax.plot(median.index, median, color=look["color"], linestyle=":")
    if "random_init" in tables:
        median = by_level(tables["random_init"], f"{name}_difference", "mean").median()
        ax.plot(median.index, median, **UNTRAINED)
    ax.set_ylim(bottom=0)


def _means(ax: Axes, tables: Mapping[str, pa.Table], metric: str, side: str, trained: Mapping) -> None:
    for name, table in tables.items():
        mean = by_level(table, metric, side).mean()
        ax.plot(mean.index, mean, marker="o", **(trained if name == "trained" else UNTRAINED))


def _spectra(table: pa.Table, component: str) -> dict[int, np.ndarray]:
    """σ_tλ of every level, problems × eigenvalues."""
    rows = pc.and_(pc.equal(table["metric"], "scaled"), pc.equal(table["component"], component))
    frame = table.filter(rows).to_pandas()
    return {
        t: each.pivot(index="problem_id", columns="index", values="value").to_numpy()
        for t, each in frame.groupby("t")
    }


def _name(table: pa.Table, side: str) -> str:
    return table[side][0].as_py()
