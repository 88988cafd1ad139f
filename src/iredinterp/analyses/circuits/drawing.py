"""Figures of EXP-009. Level axes run from the noisiest level to the sharpest."""

from __future__ import annotations

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iredinterp.analyses.circuits.frames import RANDOM
from iredinterp.analyses.circuits.graph_drawing import figure_circuit
from iredinterp.errors import TableError
from iredinterp.figures import PALETTE, level_color, panel_grid, style
from iredinterp.panels import CONDITION_COLORS, NOISY_TO_SHARP, REFERENCE, framed, reference_handle

THIN = [
    {"color": PALETTE[name], "linestyle": line_style, "linewidth": 0.8, "zorder": 2}
    for line_style in ("-", "-.", ":")
    for name in ("blue", "vermillion", "green", "purple", "orange", "sky")
]
THICK = {"color": PALETTE["black"], "linewidth": 1.6, "zorder": 3}
COLUMNS = {
    "curves": ("condition", "t", "method", "sample", "k", "value"),
    "scores": ("t", "layer", "unit", "score", "gain"),
    "overlaps": ("t", "t2", "value", "low", "high"),
    "accuracy": ("source", "layer", "k", "method", "t", "sample", "value"),
}
# Axes of faithfulness and accuracy end here; what does more harm is drawn on the edge.
LOWEST = -0.5
# Of a normal distribution, 95 %.
TWO_SIDED = 1.96


def figures(
    curves: pd.DataFrame,
    scores: pd.DataFrame,
    overlaps: pd.DataFrame,
    accuracy: pd.DataFrame,
    graph: nx.DiGraph,
    title: str = "",
    note: str = "",
) -> dict[str, Figure]:
    """All figures of one model.

    Args:
        curves: as for `figure_curves`.
        scores, overlaps: as for `figure_levels`.
        accuracy: as for `figure_interchange`.
        graph: of the circuit at one level, from `circuit_graph`.
        title: of every figure.
        note: a line below it.

    Returns:
        curves, levels, interchange and circuit.

    Raises:
        TableError: a frame lacks a column or has no rows.
    """
    return {
        "curves": figure_curves(curves, title, note),
        "levels": figure_levels(scores, overlaps, title, note),
        "interchange": figure_interchange(accuracy, title, note),
        "circuit": figure_circuit(graph, title, note),
    }


@style()
def figure_curves(curves: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Faithfulness against the number of units kept, a panel per condition and level.

    Args:
        curves: a row per circuit: condition; t; method, "random" or what ranked the units, the first being
            the one in question; sample, what a curve is repeated over; k, units kept; and value.
        title: of the figure.
        note: a line below the title.
    """
    curves = _checked(curves, "curves")
    found = curves["condition"].unique().tolist()
    conditions = [name for name in CONDITION_COLORS if name in found]
    levels = sorted(curves["t"].unique(), reverse=True)
    methods = [name for name in curves["method"].unique() if name != RANDOM]
    lines = dict(zip(methods, [THICK, *THIN], strict=False)) | {RANDOM: REFERENCE}
    figure, axes = panel_grid(len(levels), len(conditions), 2.3, 2.0, sharex=True, sharey=True)
    for line, t in zip(axes, levels, strict=True):
        for ax, condition in zip(line, conditions, strict=True):
            rows = curves[(curves["condition"] == condition) & (curves["t"] == t)]
            for method, own in rows.groupby("method", sort=False):
                samples = own.groupby("k")["value"]
                mean, stderr = samples.mean(), samples.sem()
                ends = {"low": mean - TWO_SIDED * stderr, "high": mean + TWO_SIDED * stderr}
                if method == RANDOM:
                    ends = {"low": samples.quantile(0.025), "high": samples.quantile(0.975)}
                low, high = (end.clip(lower=LOWEST) for end in ends.values())
                if method in (RANDOM, methods[0]):
                    shade = {"color": "0.85"} if method == RANDOM else {"color": "black", "alpha": 0.2}
                    ax.fill_between(mean.index, low, high, linewidth=0, **shade)
                ax.plot(mean.index, mean.clip(lower=LOWEST), **lines[method])
    for ax, condition in zip(axes[0], conditions, strict=True):
        ax.set_title(condition.replace("_", " "))
    for ax, t in zip(axes[:, 0], levels, strict=True):
        ax.set_ylabel(f"level t = {t}\nfaithfulness")
        ax.set_ylim(max(LOWEST, min(0, curves["value"].min())) - 0.03, 1.03)
    for ax in axes[-1]:
        ax.set_xlabel("units kept")
    handles = [
        *(Line2D([], [], label=name, **lines[name]) for name in methods),
        reference_handle("random circuits, mean"),
        Patch(color="0.85", label="middle 95 % of random circuits"),
    ]
    foot = (
        "means over problems not searched on, 95 % intervals; 1 is the whole network's gradient, 0 is none; "
        "values below −½ are drawn there"
    )
    return framed(figure, title, note, foot, handles)


@style()
def figure_levels(
    scores: pd.DataFrame, overlaps: pd.DataFrame, title: str = "", note: str = "", units: int = 24
) -> Figure:
    """Which units matter at which level, their gates, and what circuits of two levels share.

    Args:
        scores: a row per level, layer (1 … 3) and unit: t, layer, unit, score, and gain, the level's factor.
        overlaps: a row per pair of levels: t, t2, value (Jaccard), low and high (of random circuits).
        title: of the figure.
        note: a line below the title.
        units: how many to draw of each layer, those with the largest share of some level's largest score.
    """
    scores, overlaps = _checked(scores, "scores"), _checked(overlaps, "overlaps")
    shares, gains = (
        scores.pivot_table(index="t", columns=["layer", "unit"], values=name).sort_index(ascending=False)
        for name in ("score", "gain")
    )
    shares = shares / shares.abs().T.groupby("layer").transform("max").T
    shown = _by_layer_and_level(shares, units)
    figure, axes = plt.subplot_mosaic(
        [["scores", "overlaps"], ["gains", "overlaps"]], figsize=(9.2, 3.3), width_ratios=[1.7, 1]
    )
    image = _unit_map(axes["scores"], shares[shown], cmap="RdBu_r", norm=TwoSlopeNorm(0, -1, 1))
    figure.colorbar(image, ax=axes["scores"], label="score over largest\nof level and layer")
    spread = max(0.01, float((gains[shown] - 1).abs().quantile(0.98).max()))
    norm = TwoSlopeNorm(1, 1 - spread, 1 + spread)
    image = _unit_map(axes["gains"], gains[shown], cmap="PuOr_r", norm=norm)
    figure.colorbar(image, ax=axes["gains"], label="gain", extend="both")
    axes["gains"].set_xlabel("units, within a layer by the level that needs them most")
    _overlap_map(figure, axes["overlaps"], overlaps)
    left = scores.groupby(["layer", "unit"]).ngroups - len(shown)
    foot = f"the {units} units of each layer with the largest scores, {left} left out; " * (left > 0)
    foot += "+ and −: circuits share more or less than 95 % of random ones of the same sizes per layer"
    return framed(figure, title, note, foot)


@style()
def figure_interchange(accuracy: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Interchange accuracy by layer and dimension, beside random subspaces and single units.

    Args:
        accuracy: a row per subspace: source, a row of panels, how the source was run; layer; k; method,
            "aligned", "units" or "random"; t; sample, what is repeated; and value.
        title: of the figure.
        note: a line below the title.
    """
    accuracy = _checked(accuracy, "accuracy")
    sources, layers = accuracy["source"].unique(), sorted(accuracy["layer"].unique())
    levels = sorted(accuracy["t"].unique(), reverse=True)
    colors = {t: level_color(t, max(10, levels[0] + 1)) for t in levels}
    figure, axes = panel_grid(len(sources), len(layers), 2.3, 2.0, sharex=True, sharey=True)
    methods = {"aligned": ("-", "o"), "units": (":", "v"), RANDOM: ("--", "x")}
    for line, source in zip(axes, sources, strict=True):
        for ax, layer in zip(line, layers, strict=True):
            rows = accuracy[(accuracy["source"] == source) & (accuracy["layer"] == layer)]
            for (method, t), own in rows.groupby(["method", "t"]):
                median = own.groupby("k")["value"].median().clip(lower=LOWEST)
                line_style, marker = methods[method]
                ax.plot(median.index, median, color=colors[t], linestyle=line_style, marker=marker)
            ax.axhline(1, **REFERENCE)
            ax.axhline(0, color="0.8", linewidth=0.6)
    for ax, layer in zip(axes[0], layers, strict=True):
        ax.set_title(f"layer {layer}")
    for ax, source in zip(axes[:, 0], sources, strict=True):
        ax.set_ylabel(f"{source}\ninterchange accuracy")
    ticks = sorted(accuracy["k"].unique())
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xticks(ticks, [f"{k:g}" for k in ticks])
    axes[0, 0].set_ylim(LOWEST - 0.03, 1.08)
    for ax in axes[-1]:
        ax.minorticks_off()
        ax.set_xlabel("dimensions swapped, k")
    names = ("aligned subspace", "k best single units", "random subspace")
    handles = [
        *(Line2D([], [], color=colors[t], label=f"level t = {t}") for t in levels),
        *(
            Line2D([], [], color="0.3", linestyle=line_style, marker=marker, label=name)
            for name, (line_style, marker) in zip(names, methods.values(), strict=True)
        ),
    ]
    foot = "on pairs not learnt from; medians over samples, a line per level; values below −½ are drawn there"
    return framed(figure, title, note, foot, handles)


def _checked(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    if missing := [column for column in COLUMNS[name] if column not in frame]:
        raise TableError(f"figure: {name}: no column {', '.join(map(repr, missing))}")
    if frame.empty:
        raise TableError(f"figure: {name}: no rows to draw")
    return frame


def _by_layer_and_level(shares: pd.DataFrame, units: int) -> list[tuple[int, int]]:
    """Columns of the largest shares, by layer, then by the level where each is largest."""
    size = shares.abs()
    order = pd.DataFrame({"level": -size.idxmax(), "size": -size.max()}).reset_index()
    largest = order.sort_values("size", kind="stable").groupby("layer").head(units)
    shown = largest.sort_values(["layer", "level", "size"], kind="stable")
    return list(zip(shown["layer"], shown["unit"], strict=True))


def _unit_map(ax: Axes, values: pd.DataFrame, **options):
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **options)
    ax.set_yticks(range(len(values)), [str(t) for t in values.index])
    ax.set_ylabel("level t")
    ax.set_xticks([])
    layers = values.columns.get_level_values("layer").to_numpy()
    for layer in np.unique(layers):
        columns = np.flatnonzero(layers == layer)
        ax.axvline(columns[-1] + 0.5, color="black", linewidth=0.8)
        ax.text(columns.mean(), -0.8, f"layer {layer}", ha="center", va="bottom", fontsize=8)
    return image


def _overlap_map(figure: Figure, ax: Axes, overlaps: pd.DataFrame) -> None:
    value, low, high = (
        overlaps.pivot_table(index="t", columns="t2", values=name)
        .sort_index(ascending=False)
        .sort_index(axis=1, ascending=False)
        for name in ("value", "low", "high")
    )
    image = ax.imshow(value, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    levels = [str(t) for t in value.index]
    ax.set_xticks(range(len(levels)), levels)
    ax.set_yticks(range(len(levels)), levels)
    ax.set_xlabel(f"level t′\n{NOISY_TO_SHARP}")
    ax.set_ylabel("level t")
    ax.set_title("Jaccard index of circuits")
    for row, column in np.argwhere(((value > high) | (value < low)).to_numpy()):
        if row != column:
            sign = "+" if value.iloc[row, column] > high.iloc[row, column] else "−"
            color = "white" if value.iloc[row, column] < 0.6 else "black"
            ax.text(column, row, sign, ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=ax, shrink=0.8)
