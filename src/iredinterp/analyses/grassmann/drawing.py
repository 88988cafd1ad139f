"""Figures of EXP-004. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.grassmann.names import BASELINE, ISOTROPIC
from iredinterp.figures import PALETTE, confidence_band, level_color, panel_grid, style
from iredinterp.panels import (
    BOOTSTRAP,
    CONDITION_COLORS,
    REFERENCE,
    by_condition,
    by_level,
    condition_curves,
    condition_handles,
    framed,
    level_axis,
    level_curve,
    model_and_optimum,
    one_model,
    optimum_curve,
    optimum_handle,
    points_drawn,
    reference_handle,
)

POINTS = "perturbed"
ARM_COLORS = {
    "core": PALETTE["green"],
    "column": PALETTE["blue"],
    "row": PALETTE["sky"],
    "normal": PALETTE["vermillion"],
}


def figures(
    metrics: pa.Table, displacements: pa.Table, paths: pa.Table, title: str = "", note: str = ""
) -> dict[str, Figure]:
    """All figures of one model.

    Args:
        metrics: of `grassmann_tables` under all conditions, "trained" among them.
        displacements: of the trained model.
        paths: under all conditions.
        title: of every figure.
        note: a line below it.

    Returns:
        arms, effect, correlation and paths.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = by_condition(metrics)
    return {
        "arms": figure_arms(tables, displacements, title, note),
        "effect": figure_effect(tables, title, note),
        "correlation": figure_correlation(tables, displacements, title, note),
        "paths": figure_paths(by_condition(paths), title, note),
    }


@style()
def figure_arms(
    tables: Mapping[str, pa.Table], displacements: pa.Table, title: str = "", note: str = ""
) -> Figure:
    """Energy of each arm at each radius, and over that of the core arm at the largest.

    Args:
        tables: metrics by condition.
        displacements: of the trained model.
        title: of the figure.
        note: a line below the title.
    """
    table, best = model_and_optimum(tables, POINTS)
    radii = sorted(_of_metric(table, "scaled_change")["index"].unique().to_pylist())
    figure, (axes,) = panel_grid(1, len(radii) + 1, 2.9, 2.5)
    for ax, index in zip(axes, radii, strict=False):
        here, there = _at_index(table, index), best and _at_index(best, index)
        for arm, color in ARM_COLORS.items():
            level_curve(ax, here, "scaled_change", arm, arm, color)
            optimum_curve(ax, there, "scaled_change", arm, color)
        ax.set_title(f"‖ΔY‖$_F$ = {_radius(displacements, index):.2g} σ$_t$√d")
        ax.axhline(1, **REFERENCE)
    axes[0].set_ylabel("2σ$_t$ΔE / ‖ΔY‖$_F^2$ (dimensionless)")
    here, there = _at_index(table, radii[-1]), best and _at_index(best, radii[-1])
    for arm in (arm for arm in ARM_COLORS if arm != BASELINE):
        level_curve(axes[-1], here, "arm_ratio", f"{arm}/{BASELINE}", "", ARM_COLORS[arm])
        optimum_curve(axes[-1], there, "arm_ratio", f"{arm}/{BASELINE}", ARM_COLORS[arm])
    axes[-1].axhline(1, **REFERENCE)
    axes[-1].set_title(f"over the {BASELINE} arm")
    axes[-1].set_ylabel("ΔE(arm) / ΔE(core)")
    for ax in axes:
        level_axis(ax, table)
    meaning = {
        "core": "core: singular values change",
        "column": "column space turns",
        "row": "row space turns",
        "normal": "normal: rank rises",
    }
    handles = [Line2D([], [], color=ARM_COLORS[arm], label=label) for arm, label in meaning.items()]
    handles.append(reference_handle("isotropic energy"))
    if best is not None:
        handles.append(optimum_handle())
    return framed(figure, title, note, points_drawn(table, POINTS) + BOOTSTRAP, handles)


@style()
def figure_effect(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """ΔE(column)/ΔE(core) under every condition: over all levels, and by level.

    Args:
        tables: metrics by condition.
        title: of the figure.
        note: a line below the title.
    """
    table, _ = model_and_optimum(tables, POINTS)
    figure, (axes,) = panel_grid(1, 2, 3.6, 2.6)
    names = list(tables)
    for place, name in enumerate(names):
        ratios = by_level(one_model(tables[name], POINTS), "energy_ratio")
        effect = np.log(ratios.astype(float)).mean(axis=1).dropna()
        if effect.empty:
            axes[0].text(1, place, "undefined", va="center", ha="center", fontsize=6)
            continue
        centre, low, high = np.exp(np.concatenate(confidence_band(effect.to_numpy()[:, None])))
        axes[0].plot([low, high], [place, place], color=CONDITION_COLORS[name], linewidth=2, alpha=0.5)
        axes[0].plot(centre, place, "o", color=CONDITION_COLORS[name], markersize=5)
    axes[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes[0].invert_yaxis()
    axes[0].axvline(1, **REFERENCE)
    axes[0].set_xlabel("ΔE(column) / ΔE(core)")
    axes[0].set_title("geometric mean over levels")
    condition_curves(axes[1], tables, POINTS, "energy_ratio")
    axes[1].axhline(1, **REFERENCE)
    axes[1].set_title("by level")
    level_axis(axes[1], table)
    foot = f"medians over problems; {points_drawn(table, POINTS)}{BOOTSTRAP}"
    return framed(figure, title, note, foot, condition_handles(tables))


@style()
def figure_correlation(
    tables: Mapping[str, pa.Table], displacements: pa.Table, title: str = "", note: str = ""
) -> Figure:
    """How confounding looks: energy against subspace distance, naively and at equal norm.

    Args:
        tables: metrics by condition.
        displacements: of the trained model.
        title: of the figure.
        note: a line below the title.
    """
    table, best = model_and_optimum(tables, POINTS)
    figure, (axes,) = panel_grid(1, 3, 3.0, 2.6)
    sharp = _isotropic(displacements)
    colors = axes[0].scatter(
        sharp["column_distance"], sharp["energy_change"], c=sharp["norm"], s=3, cmap="viridis", linewidths=0
    )
    figure.colorbar(colors, ax=axes[0], label="‖ΔY‖$_F$")
    axes[0].set_xlabel("distance of column spaces (rad)")
    axes[0].set_ylabel("ΔE")
    axes[0].set_title(f"random displacements, level t = {sharp['t'].min()}")
    lines = {"column": PALETTE["blue"], "row": PALETTE["sky"], "norm": PALETTE["vermillion"]}
    for name, color in lines.items():
        level_curve(axes[1], table, "correlation", name, "", color)
        optimum_curve(axes[1], best, "correlation", name, color)
        if name != "norm":
            level_curve(axes[2], table, "partial_correlation", name, "", color)
            optimum_curve(axes[2], best, "partial_correlation", name, color)
    axes[1].set_title("naive: Spearman's ρ with ΔE")
    axes[2].set_title("controlled: partial ρ given ‖ΔY‖")
    for ax in axes[1:]:
        ax.set_ylim(-1.05, 1.05)
        ax.axhline(0, **REFERENCE)
        level_axis(ax, table)
    labels = ("distance of column spaces", "distance of row spaces", "‖ΔY‖$_F$")
    handles = [
        Line2D([], [], color=color, label=label) for color, label in zip(lines.values(), labels, strict=True)
    ]
    if best is not None:
        handles.append(optimum_handle())
    return framed(figure, title, note, points_drawn(table, POINTS) + BOOTSTRAP, handles)


@style()
def figure_paths(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Energy from the answer of another problem to the right one, straight and by turning subspaces.

    Args:
        tables: paths by condition.
        title: of the figure.
        note: a line below the title.
    """
    shown = [name for name in ("trained", "oracle") if name in tables]
    figure, axes = panel_grid(len(shown), 2, 3.4, 2.1, sharex=True, sharey=True)
    for name, line in zip(shown, axes, strict=True):
        for path, ax in zip(("straight", "subspace"), line, strict=True):
            _draw_path(ax, tables[name], path)
            ax.set_title(f"{name}, {path} path")
        line[0].set_ylabel("ΔE / ΔE at the start")
    for ax in axes[-1]:
        ax.set_xlabel("other answer → right answer")
    levels = sorted(pc.unique(tables["trained"]["t"]).to_pylist())
    handles = [
        Line2D([], [], color=level_color(t, len(levels)), label=f"t = {t}") for t in (levels[-1], levels[0])
    ]
    foot = f"medians over problems at every level; {points_drawn(tables['trained'], POINTS)}"
    return framed(figure, title, note, foot, handles)


def _draw_path(ax: Axes, table: pa.Table, path: str) -> None:
    frame = table.filter(pc.equal(table["path"], path)).select(
        ["problem_id", "t", "position", "energy_change", "reason"]
    )
    frame = frame.to_pandas()
    if frame["energy_change"].isna().all():
        reason = frame["reason"].iloc[0].replace(", ", ",\n")
        ax.text(0.03, 0.03, reason, transform=ax.transAxes, va="bottom", fontsize=6)
        return
    levels = sorted(frame["t"].unique())
    for t in levels:
        energies = frame[frame["t"] == t].pivot(
            index="problem_id", columns="position", values="energy_change"
        )
        relative = energies.div(energies[0], axis=0).median()
        ax.plot(relative.index / relative.index.max(), relative, color=level_color(t, len(levels)))


def _of_metric(table: pa.Table, metric: str) -> pa.Table:
    return table.filter(pc.equal(table["metric"], metric))


def _at_index(table: pa.Table, index: int) -> pa.Table:
    return table.filter(pc.equal(table["index"], index))


def _radius(displacements: pa.Table, index: int) -> float:
    """The radius at a position, in units of σ_t√d."""
    arms = displacements.filter(pc.not_equal(displacements["arm"], ISOTROPIC))
    return sorted(pc.unique(arms["radius"]).to_pylist())[index]


def _isotropic(displacements: pa.Table, most: int = 1500) -> pd.DataFrame:
    """Random displacements at the sharpest level, thinned evenly."""
    frame = displacements.filter(pc.equal(displacements["arm"], ISOTROPIC))
    frame = frame.filter(pc.equal(frame["t"], pc.min(frame["t"])))
    frame = frame.select(["t", "norm", "column_distance", "energy_change"]).to_pandas()
    return frame.iloc[:: -(-len(frame) // most)]
