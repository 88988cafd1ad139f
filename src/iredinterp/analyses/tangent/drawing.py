"""Figures of EXP-005. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.tangent.names import RADIAL_REMOVED, SHUFFLED
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import (
    BOOTSTRAP,
    REFERENCE,
    by_condition,
    condition_curves,
    condition_handles,
    framed,
    isotropic_band,
    isotropic_handle,
    level_axis,
    level_curve,
    logarithmic,
    metric_rows,
    model_and_optimum,
    optimum_curve,
    optimum_handle,
    plain_logarithms,
    points_drawn,
    reference_curve,
    reference_handle,
)

MODEL, OTHER, WITHOUT = PALETTE["blue"], PALETTE["orange"], PALETTE["purple"]


def figures(metrics: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """All figures of one model at its q_samples.

    Args:
        metrics: of `tangent_table` under all conditions, "trained" among them.
        title: of every figure.
        note: a line below it.

    Returns:
        ratios, shares and conditions.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = by_condition(metrics)
    return {
        "ratios": figure_ratios(tables, title, note),
        "shares": figure_shares(tables, title, note),
        "conditions": figure_conditions(tables, title, note),
    }


@style()
def figure_ratios(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", point_kind: str = "q_sample"
) -> Figure:
    """Normal over tangent gradient and curvature, each beside its nulls, and what the gradient leans on.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        point_kind: which points.
    """
    table, best = model_and_optimum(tables, point_kind)
    if reason := _no_manifold(table):
        return _said(reason, title, note)
    present = set(pc.unique(table["metric"]).to_pylist())
    bends = "smallest_curvature" in present
    figure, (axes,) = panel_grid(1, 3 + bends, 2.5, 2.5)
    metric = "normal_tangent_ratio"
    isotropic_band(axes[0], table, "normal_tangent")
    level_curve(axes[0], table, metric, RADIAL_REMOVED, "", WITHOUT, "--")
    for ax, name in zip(axes, (metric, "curvature_ratio"), strict=False):
        level_curve(ax, table, name, SHUFFLED, "", OTHER, ":")
        level_curve(ax, table, name, "", "", MODEL)
        optimum_curve(ax, best, name, "", MODEL)
        ax.axhline(1, **REFERENCE)
    logarithmic(axes[0])
    plain_logarithms(axes[0].yaxis)
    axes[0].set_title("gradient: F = ‖P$_N$g‖² / ‖P$_T$g‖²")
    axes[1].set_title("curvature: C = tr P$_N$H / tr P$_T$H")
    axes[0].set_ylabel("per dimension (dimensionless)")
    leans = {
        "radial_cosine": ("cos(g, Y*)", PALETTE["green"]),
        "error_cosine": ("cos(g, y − √ᾱ$_t$y*)", PALETTE["vermillion"]),
        "residual_cosine": ("cos(g, Xᵀ(XY − I))", PALETTE["sky"]),
    }
    for name in (name for name in leans if name in present):
        level_curve(axes[2], table, name, "", *leans[name])
    axes[2].set_title("what the gradient leans on")
    curvatures = {
        "projected": ("smallest σ$_t$λ of P$_T$HP$_T$", PALETTE["black"]),
        "riemannian": ("same with the manifold's bending", PALETTE["purple"]),
    }
    for name, (label, color) in curvatures.items() if bends else ():
        level_curve(axes[3], table, "smallest_curvature", name, label, color)
        optimum_curve(axes[3], best, "smallest_curvature", name, color)
        axes[3].set_title("on the manifold, at Y$_r$")
    for ax in axes:
        level_axis(ax, table)
    handles = [
        Line2D([], [], color=MODEL, label="T and N of the right answer"),
        Line2D([], [], color=OTHER, linestyle=":", label="T and N of another answer"),
        Line2D([], [], color=WITHOUT, linestyle="--", label="direction of Y* left out of T"),
        isotropic_handle(),
        *[line for ax in axes[2:] for line in ax.get_legend_handles_labels()[0]],
        *([optimum_handle()] if best is not None else []),
    ]
    return framed(figure, title, note, points_drawn(table, point_kind) + BOOTSTRAP, handles)


@style()
def figure_shares(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", point_kind: str = "q_sample"
) -> Figure:
    """Share of the gradient in each block, and for completion in observed and missing entries.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        point_kind: which points.
    """
    table, best = model_and_optimum(tables, point_kind)
    if reason := _no_manifold(table):
        return _said(reason, title, note)
    rows = {
        metric: pc.unique(table.filter(pc.equal(table["metric"], metric))["component"]).to_pylist()
        for metric in ("block_share", "cell_share")
    }
    rows = {metric: components for metric, components in rows.items() if components}
    figure, axes = panel_grid(len(rows), max(map(len, rows.values())), 2.1, 1.9, sharex=True)
    for ax in axes.flat:
        ax.set_axis_off()
    for (metric, components), line in zip(rows.items(), axes, strict=False):
        for component, ax in zip(components, line, strict=False):
            ax.set_axis_on()
            if metric == "block_share":
                isotropic_band(ax, table, metric, component)
                level_curve(ax, table, f"{metric}_shuffled", component, "", OTHER, ":")
            reference_curve(ax, table, f"{metric}_null", component)
            level_curve(ax, table, metric, component, "", MODEL)
            optimum_curve(ax, best, metric, component, MODEL)
            ax.set_title(component)
            ax.set_ylim(bottom=0)
            level_axis(ax, table)
        line[0].set_ylabel("share of ‖g‖²")
    handles = [
        Line2D([], [], color=MODEL, label="blocks of the right answer"),
        Line2D([], [], color=OTHER, linestyle=":", label="blocks of another answer"),
        reference_handle("chance: share of dimensions"),
        isotropic_handle(),
        *([optimum_handle()] if best is not None else []),
    ]
    return framed(figure, title, note, points_drawn(table, point_kind) + BOOTSTRAP, handles)


@style()
def figure_conditions(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", point_kind: str = "q_sample"
) -> Figure:
    """Both ratios under every condition.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        point_kind: which points.
    """
    table, _ = model_and_optimum(tables, point_kind)
    if reason := _no_manifold(table):
        return _said(reason, title, note)
    figure, (axes,) = panel_grid(1, 2, 3.6, 2.6)
    headings = {"normal_tangent_ratio": "gradient: F", "curvature_ratio": "curvature: C"}
    for ax, (metric, heading) in zip(axes, headings.items(), strict=True):
        condition_curves(ax, tables, point_kind, metric)
        ax.axhline(1, **REFERENCE)
        ax.set_title(heading)
        level_axis(ax, table)
    logarithmic(axes[0])
    plain_logarithms(axes[0].yaxis)
    axes[0].set_ylabel("normal over tangent part")
    foot = f"medians over problems; {points_drawn(table, point_kind)}"
    return framed(figure, title, note, foot, condition_handles(tables))


def _no_manifold(table: pa.Table) -> str:
    """Why nothing is defined at any point, or nothing if something is."""
    rows = metric_rows(table, "normal_tangent_ratio")
    return rows["reason"].iloc[0] if rows["value"].isna().all() else ""


def _said(reason: str, title: str, note: str) -> Figure:
    figure, axes = panel_grid(1, 1, 6, 0.5)
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, f"not applicable: {reason}", ha="center", va="center")
    return framed(figure, title, note, "")
