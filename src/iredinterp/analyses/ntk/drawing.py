"""Figures of EXP-008. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iredinterp.analyses.ntk.names import KERNELS, KIND, LAYERS, OTHER, SAME, TARGETS
from iredinterp.figures import level_color, panel_grid, style
from iredinterp.panels import (
    CONDITION_COLORS,
    by_condition,
    condition_curves,
    condition_handles,
    framed,
    level_axis,
    logarithmic,
    one_model,
    plain_logarithms,
    points_drawn,
)

NAMES = {"E": "Θ$_E$", "g": "tr Θ$_g$", "r": "tr Θ$_r$"}
UNTRAINED = "random_init"
# Blue: layers that x and y pass through; green: those that see the level alone.
SHADES = [("Blues", shade) for shade in (0.9, 0.7, 0.5, 0.3)] + [
    ("Greens", shade) for shade in (0.85, 0.65, 0.45, 0.25)
]
LAYER_COLORS = {
    layer: mpl.colormaps[name](shade) for layer, (name, shade) in zip(LAYERS, SHADES, strict=True)
}
TARGET_NAMES = {"residual": "residual ε − g", "noise": "noise ε", "answer": "answer y*"}
SIGNED = "RdBu_r"
# Couplings above this are drawn too dark for a black dot.
DARK = 0.6


def figures(metrics: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """All figures of one model at its q_samples.

    Args:
        metrics: of `ntk_table` under all conditions, "trained" among them.
        title: of every figure.
        note: a line below it.

    Returns:
        spectrum, coupling and alignment.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = {name: one_model(table, KIND) for name, table in by_condition(metrics).items()}
    known = {name: table for name, table in tables.items() if pc.any(pc.is_valid(table["value"])).as_py()}
    left_out = [name.replace("_", " ") for name in tables if name not in known]
    foot = points_drawn(known["trained"].filter(pc.is_valid(known["trained"]["problem_id"])), KIND)
    if left_out:
        foot += f"; without parameters, hence without kernels: {', '.join(left_out)}"
    return {
        "spectrum": figure_spectrum(known, title, note, foot),
        "coupling": figure_coupling(known, title, note, foot),
        "alignment": figure_alignment(known, title, note, foot),
    }


@style()
def figure_spectrum(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", foot: str = ""
) -> Figure:
    """Size, effective rank and leading eigenvalues of the three kernels, level by level.

    Args:
        tables: by condition, those that have kernels.
        title: of the figure.
        note: a line below the title.
        foot: what is drawn, in words.
    """
    figure, axes = panel_grid(3, 3, 2.6, 1.9)
    trained = tables["trained"]
    levels = sorted(pc.unique(trained["t"]).to_pylist(), reverse=True)
    for column, kernel in enumerate(KERNELS):
        size, rank, spectrum = axes[:, column]
        condition_curves(size, tables, KIND, "trace", kernel)
        logarithmic(size)
        plain_logarithms(size.yaxis)
        size.set_title(NAMES[kernel])
        for name, table in tables.items():
            ranks = _by_level(table, "effective_rank", kernel)
            rank.plot(ranks.index, ranks, color=CONDITION_COLORS[name])
        rank.set_ylim(bottom=0)
        level_axis(size, trained)
        level_axis(rank, trained)
        for t in levels:
            shares = _rows(trained, "eigenvalue_share", kernel)
            shares = shares[shares["t"] == t].groupby("index")["value"].mean()
            spectrum.plot(shares.index + 1, shares, color=level_color(t), marker="o", linewidth=0.8)
        logarithmic(spectrum)
        plain_logarithms(spectrum.yaxis)
        spectrum.set_xlabel("index of the eigenvalue")
        spectrum.set_xticks(shares.index + 1)
    axes[0, 0].set_ylabel("problem with itself")
    axes[1, 0].set_ylabel("effective rank")
    axes[2, 0].set_ylabel("share of the trace, trained")
    handles = [
        *condition_handles(tables),
        *(Line2D([], [], color=level_color(t), marker="o", label=f"trained, t = {t}") for t in levels[::3]),
    ]
    foot = f"{foot}; top: medians over problems, band: their 95 % bootstrap, trained; below: kernels of all"
    return framed(figure, title, note, foot, handles)


@style()
def figure_coupling(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", foot: str = ""
) -> Figure:
    """Level-coupling matrices of the trained network beside the untrained one.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        foot: what is drawn, in words.
    """
    shown = [name for name in ("trained", UNTRAINED) if name in tables]
    figure, axes = panel_grid(2, len(shown), 3.1, 2.9)
    for row, component in enumerate((SAME, OTHER)):
        for ax, name in zip(axes[row], shown, strict=True):
            image = _draw_coupling(ax, tables[name], component)
            ax.set_title(f"{name.replace('_', ' ')}, {component}")
        axes[row, 0].set_ylabel("level t")
    figure.colorbar(image, ax=axes, label="level coupling M$_{tt′}$", shrink=0.6)
    foot = f"{foot}; dots: the 95 % jackknife interval over problems excludes 0; one training seed"
    return framed(figure, title, note, foot)


@style()
def figure_alignment(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", foot: str = ""
) -> Figure:
    """Which layers make up the kernels, and what the kernels are aligned with.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        foot: what is drawn, in words.
    """
    figure, axes = panel_grid(2, 3, 2.6, 2.1)
    trained = tables["trained"]
    for ax, kernel in zip(axes[0], KERNELS, strict=True):
        shares = [_by_level(trained, "layer_share", f"{kernel} {layer}") for layer in LAYERS]
        ax.stackplot(shares[0].index, shares, colors=LAYER_COLORS.values(), linewidth=0)
        ax.set_ylim(0, 1)
        ax.set_title(f"layers of {NAMES[kernel]}, trained")
        level_axis(ax, trained)
    axes[0, 0].set_ylabel("share of the trace")
    for ax, target in zip(axes[1], TARGETS, strict=True):
        component = f"g {target}"
        low, high = (_by_level(trained, f"alignment_{end}", component) for end in ("low", "high"))
        ax.fill_between(low.index, low, high, color="0.85", linewidth=0)
        for name, table in tables.items():
            values = _by_level(table, "alignment", component)
            ax.plot(values.index, values, color=CONDITION_COLORS[name])
        ax.set_title(f"with {TARGET_NAMES[target]}")
        ax.set_ylim(min(-0.1, ax.get_ylim()[0]), 1)
        level_axis(ax, trained)
    axes[1, 0].set_ylabel("alignment of tr Θ$_g$")
    handles = [
        *(Patch(color=color, label=layer) for layer, color in LAYER_COLORS.items()),
        *condition_handles(tables),
        Patch(color="0.85", label="95 % with labels permuted, trained"),
    ]
    return framed(figure, title, note, f"{foot}; alignment: debiased CKA over problems", handles)


def _draw_coupling(ax: Axes, table: pa.Table, component: str):
    """Symmetric, the noisiest level first, with a dot where the interval excludes 0."""
    value, low, high = (
        _square(_rows(table, f"level_coupling{end}", component)) for end in ("", "_low", "_high")
    )
    image = ax.imshow(value, cmap=SIGNED, vmin=-1, vmax=1)
    certain = (low.to_numpy() > 0) | (high.to_numpy() < 0)
    if component == SAME:
        np.fill_diagonal(certain, False)
    rows, columns = np.nonzero(certain)
    dark = np.abs(value.to_numpy()[rows, columns]) > DARK
    ax.scatter(columns, rows, s=4, c=np.where(dark, "white", "black"), linewidths=0)
    ax.set_xticks(range(len(value)), value.columns)
    ax.set_yticks(range(len(value)), value.index)
    ax.set_xlabel("level t′")
    return image


def _square(rows: pd.DataFrame) -> pd.DataFrame:
    half = rows.groupby(["t", "t2"])["value"].mean().unstack("t2")
    levels = sorted(half.index, reverse=True)
    half = half.reindex(index=levels, columns=levels)
    return half.fillna(half.T)


def _rows(table: pa.Table, metric: str, component: str) -> pd.DataFrame:
    chosen = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], component))
    return table.filter(chosen).select(["t", "t2", "index", "value"]).to_pandas()


def _by_level(table: pa.Table, metric: str, component: str) -> pd.Series:
    """Means over blocks, the noisiest level first."""
    return _rows(table, metric, component).groupby("t")["value"].mean().sort_index(ascending=False)
