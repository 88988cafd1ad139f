"""Figures of EXP-001. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter, NullLocator

from iredinterp.figures import PALETTE, level_color, panel_grid, style
from iredinterp.names import BASES
from iredinterp.panels import (
    BOOTSTRAP,
    NOISY_TO_SHARP,
    OPTIMUM,
    REFERENCE,
    by_level,
    framed,
    level_axis,
    level_curve,
    logarithmic,
    metric_rows,
    one_model,
    optimum_curve,
    optimum_handle,
    points_drawn,
)

DETERMINED = "Bayes-optimal where y is determined by x: σ$_t$λ = 1"


def figures(
    spectra: pa.Table,
    metrics: pa.Table,
    tracking: pa.Table,
    oracle: Sequence[pa.Table] = (),
    title: str = "",
    note: str = "",
) -> dict[str, Figure]:
    """All figures of one model at one kind of point: q_samples, or the first kind there is.

    Args:
        spectra, metrics, tracking: gathered tables of `spectrum_tables`.
        oracle: the same three of the Bayes-optimal energy on the same problems, if there is one.
        title: of every figure.
        note: a line below it.

    Returns:
        spectra, summary, alignment and tracking.

    Raises:
        TableError: the tables hold more than one model, or no points.
    """
    kinds = pc.unique(spectra["point_kind"]).to_pylist()
    kind = "q_sample" if "q_sample" in kinds else next(iter(kinds), "q_sample")
    # The optimum is compared at the same points, which only q_samples are.
    optimal = oracle if oracle and kind == "q_sample" else (None, None, None)
    return {
        "spectra": figure_spectra(spectra, kind, optimal[0], title, note),
        "summary": figure_summary(metrics, kind, optimal[1], title, note),
        "alignment": figure_alignment(metrics, kind, optimal[1], title, note),
        "tracking": figure_tracking(tracking, kind, optimal[2], title, note),
    }


@style()
def figure_spectra(
    spectra: pa.Table,
    point_kind: str = "q_sample",
    oracle: pa.Table | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Scaled spectra σ_tλ by eigenvalue rank, one panel per level over the medians of all levels in grey.

    Args:
        spectra: of one model, from `spectrum_tables`.
        point_kind: which points.
        oracle: the same table of the Bayes-optimal energy, if there is one.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(spectra, point_kind)
    level, scaled = table["t"].to_numpy(), table["scaled"].combine_chunks().to_numpy_ndarray()
    levels = np.unique(level)[::-1]
    bands = np.stack([np.quantile(scaled[level == t], [0.025, 0.5, 0.975], axis=0) for t in levels])
    optimal = np.ones_like(bands[:, 1]) if oracle is None else _median_spectra(oracle, point_kind, levels)
    # Engines that give residuals give part of the spectrum, whose place in the whole is not known.
    partial, position = "residual" in table.column_names, np.arange(1, scaled.shape[1] + 1)
    position = position if partial else (position - 0.5) / len(position)
    columns = min(5, len(levels))
    figure, axes = panel_grid(-(-len(levels) // columns), columns, 1.8, 1.7, sharex=True, sharey=True)
    for ax in axes.flat[len(levels) :]:
        ax.set_axis_off()
    for ax, t, (low, median, high), best in zip(axes.flat, levels, bands, optimal, strict=False):
        color = level_color(t, max(10, levels[0] + 1))
        ax.plot(position, bands[:, 1].T, color="0.8", linewidth=0.6)
        ax.fill_between(position, low, high, color=color, alpha=0.3, linewidth=0)
        ax.plot(position, median, color=color, linewidth=1.8)
        ax.plot(position, best, color="black", linestyle="--", linewidth=0.8)
        ax.set_title(f"level t = {t}")
    for ax in axes[:, 0]:
        ax.set_ylabel("σ$_t$λ (dimensionless)")
    _eigenvalue_axis(axes, position, partial)
    handles = [
        Line2D([], [], color="0.3", linewidth=1.8, label="median"),
        Patch(color="0.3", alpha=0.3, linewidth=0, label="middle 95 % of points"),
        Line2D([], [], color="0.8", linewidth=0.6, label="medians at all levels"),
        Line2D(
            [],
            [],
            color="black",
            linestyle="--",
            linewidth=0.8,
            label=DETERMINED if oracle is None else f"median, {OPTIMUM} energy",
        ),
    ]
    return framed(figure, title, note, points_drawn(table, point_kind), handles)


@style()
def figure_summary(
    metrics: pa.Table,
    point_kind: str = "q_sample",
    oracle: pa.Table | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Conditioning and distance to the optimum of H, effective dimensions of H and I − σ_tH, by level.

    Args:
        metrics: of one model, from `spectrum_tables`.
        point_kind: which points.
        oracle: the same table of the Bayes-optimal energy, if there is one.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(metrics, point_kind)
    best = None if oracle is None else one_model(oracle, point_kind)
    figure, (axes,) = panel_grid(1, 4, 2.6, 2.6)
    spread = {
        "condition_number": "|λ|$_\\mathrm{max}$ / |λ|$_\\mathrm{min}$",
        "quantile_ratio": "|λ|(95 %) / |λ|(5 %)",
    }
    dimension = {
        "effective_rank": "effective rank",
        "participation_ratio": "participation ratio",
        "stable_rank": "stable rank",
    }
    panels = [
        ("spread of H", "", spread),
        ("effective dimension of H", "H", dimension),
        ("effective dimension of I − σ$_t$H", "I-σH", dimension),
    ]
    colors = {
        "condition_number": "black",
        "quantile_ratio": "purple",
        "effective_rank": "blue",
        "participation_ratio": "vermillion",
        "stable_rank": "green",
    }
    for ax, (heading, component, names) in zip(axes[:3], panels, strict=True):
        for (name, label), line in zip(names.items(), ("-", "--", "-."), strict=False):
            level_curve(ax, table, name, component, label, PALETTE[colors[name]], line)
            optimum_curve(ax, best, name, component, PALETTE[colors[name]])
        ax.set_title(heading)
        level_axis(ax, table)
    distance = {
        "oracle_distance": ("‖H − H*‖$_F$ / ‖H*‖$_F$", PALETTE["orange"], "-"),
        "oracle_gradient_distance": ("‖∇E − ∇E*‖ / √d", PALETTE["sky"], "--"),
    }
    for name, (label, color, line) in distance.items():
        level_curve(axes[3], table, name, "", label, color, line)
    axes[3].set_title("distance to the optimum")
    level_axis(axes[3], table)
    for ax in axes[[0, 3]]:
        if not ax.lines:
            continue
        logarithmic(ax)
        ax.yaxis.set_major_formatter(LogFormatter())
        ax.yaxis.set_minor_formatter(LogFormatter())
    axes[0].set_ylabel("ratio (dimensionless)")
    axes[1].set_ylabel("number of directions")
    axes[2].sharey(axes[1])
    axes[1].set_ylim(bottom=0)
    handles = [line for ax in axes[[0, 1, 3]] for line in ax.get_legend_handles_labels()[0]]
    if best is not None:
        handles.append(optimum_handle())
    return framed(figure, title, note, points_drawn(table, point_kind) + BOOTSTRAP, handles)


@style()
def figure_alignment(
    metrics: pa.Table,
    point_kind: str = "q_sample",
    oracle: pa.Table | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Where the end eigenspaces and the curvature lie, one column per geometric basis, against the level.

    Args:
        metrics: of one model, from `spectrum_tables`.
        point_kind: which points.
        oracle: the same table of the Bayes-optimal energy, if there is one.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(metrics, point_kind)
    best = None if oracle is None else one_model(oracle, point_kind)
    figure, axes = panel_grid(2, len(BASES), 1.75, 1.9, sharex=True, sharey="row")
    ends = {"low": PALETTE["blue"], "high": PALETTE["vermillion"]}
    shares = {"curvature_share": PALETTE["green"], "response_square_share": PALETTE["purple"]}
    for basis, above, below in zip(BASES, *axes, strict=True):
        above.set_title(basis)
        chance = by_level(table, "alignment_chance", f"{basis}/low").median()
        margin = 2 * by_level(table, "alignment_chance_sd", f"{basis}/low").median()
        above.fill_between(chance.index, chance - margin, chance + margin, color="0.87", linewidth=0)
        for end, color in ends.items():
            other = by_level(table, "alignment_mismatched", f"{basis}/{end}").median()
            above.plot(other.index, other, color=color, linestyle=":")
            level_curve(above, table, "alignment", f"{basis}/{end}", "", color)
            optimum_curve(above, best, "alignment", f"{basis}/{end}", color)
        for name, color in shares.items():
            level_curve(below, table, name, basis, "", color)
            optimum_curve(below, best, name, basis, color)
        for ax in (above, below):
            ax.plot(chance.index, chance, **REFERENCE)
        level_axis(below, table)
    axes[0, 0].set_ylim(0, 1.02)
    axes[0, 0].set_ylabel("alignment ‖PE‖$_F^2$ / m\nwith the basis")
    axes[1, 0].set_ylim(bottom=min(0, axes[1, 0].get_ylim()[0]))
    axes[1, 0].set_ylabel("share of the curvature\nin the basis")
    handles = [
        Line2D([], [], color=ends["low"], label="softest eigenspace (lowest λ)"),
        Line2D([], [], color=ends["high"], label="stiffest eigenspace (highest λ)"),
        Line2D([], [], color="0.4", linestyle=":", label="same, basis of another problem"),
        Line2D([], [], color=shares["curvature_share"], label="share of tr H"),
        Line2D([], [], color=shares["response_square_share"], label="share of ‖I − σ$_t$H‖$_F^2$"),
        Line2D(
            [],
            [],
            color="0.3",
            linestyle="--",
            linewidth=0.8,
            label="chance k/d; grey: ± 2 sd of one random eigenspace",
        ),
    ]
    if best is not None:
        handles.append(optimum_handle())
    return framed(figure, title, note, points_drawn(table, point_kind) + BOOTSTRAP, handles)


@style()
def figure_tracking(
    tracking: pa.Table,
    point_kind: str = "q_sample",
    oracle: pa.Table | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Mean overlap of the end eigenspaces between every two levels.

    Args:
        tracking: of one model, from `spectrum_tables` or `level_overlap`.
        point_kind: which points.
        oracle: the same table of the Bayes-optimal energy, if there is one.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(tracking, point_kind)
    figure, (axes,) = panel_grid(1, 2, 3.5, 3.1, sharey=True)
    chance = metric_rows(table, "level_overlap_chance", "low")["value"].median()
    for ax, end, name in zip(axes, ("low", "high"), ("softest", "stiffest"), strict=True):
        overlap = _level_matrix(table, end)
        image = ax.imshow(overlap, vmin=0, vmax=1, cmap="cividis")
        for (row, column), value in np.ndenumerate(overlap):
            text, color = f"{value:.2f}", "black" if value > 0.55 else "white"
            if np.isnan(value):
                text, color = "–", "black"
            ax.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
        ax.set_xticks(range(len(overlap)), overlap.columns)
        ax.set_yticks(range(len(overlap)), overlap.index)
        ax.set_xlabel(f"level t′\n{NOISY_TO_SHARP}")
        ax.spines[:].set_visible(False)
        ax.set_title(f"{name} eigenspace")
    axes[0].set_ylabel("level t")
    bar = figure.colorbar(image, ax=axes, label="mean overlap ‖V(t)ᵀV(t′)‖$_F^2$ / m")
    foot = points_drawn(table, point_kind)
    if not np.isnan(chance):
        bar.ax.axhline(chance, color="white", linestyle="--", linewidth=1)
        foot += f"; dashed on the colour bar: chance m/d = {chance:.2g}"
    if any(text.get_text() == "–" for ax in axes for text in ax.texts):
        reasons = table["reason"].drop_null().unique().to_pylist()
        foot += f"; –: {'; '.join(reasons)}"
    if oracle is not None:
        foot += f"; {OPTIMUM} energy: {_optimal_overlap(one_model(oracle, point_kind))}"
    return framed(figure, title, note, foot)


def _level_matrix(table: pa.Table, end: str) -> pd.DataFrame:
    rows = metric_rows(table, "level_overlap", end)
    half = rows.groupby(["t", "t2"])["value"].mean().unstack("t2")
    levels = sorted({*rows["t"], *rows["t2"]}, reverse=True)
    half = half.reindex(index=levels, columns=levels)
    whole = half.fillna(half.T).to_numpy(copy=True)
    if half.notna().any(axis=None):
        np.fill_diagonal(whole, 1)
    return pd.DataFrame(whole, levels, levels)


def _median_spectra(table: pa.Table, point_kind: str, levels: np.ndarray) -> np.ndarray:
    table = one_model(table, point_kind)
    level, scaled = table["t"].to_numpy(), table["scaled"].combine_chunks().to_numpy_ndarray()
    return np.stack([np.median(scaled[level == t], axis=0) for t in levels])


def _optimal_overlap(table: pa.Table) -> str:
    rows = table.filter(pc.equal(table["metric"], "level_overlap"))
    if pc.all(pc.is_null(rows["value"])).as_py():
        return "; ".join(rows["reason"].drop_null().unique().to_pylist())
    return f"mean overlap {pc.mean(rows['value']).as_py():.2f}"


def _eigenvalue_axis(axes: np.ndarray, position: np.ndarray, partial: bool) -> None:
    label = axes[-1, axes.shape[1] // 2].set_xlabel
    if partial:
        label("number among the computed eigenvalues")
        return
    # A logit axis widens both ends, where the few outlying eigenvalues are.
    axes[0, 0].set_xscale("logit")
    ticks = [0.01, 0.5, 0.99] if position[0] < 0.01 else [0.1, 0.5, 0.9]
    axes[0, 0].set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    label("eigenvalues below (logit scale)")
