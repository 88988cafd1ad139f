"""Figures of EXP-002. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.analyses.landscape.names import FAMILIES
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import (
    CONDITION_COLORS,
    by_condition,
    by_level,
    condition_handles,
    framed,
    level_axis,
    metric_rows,
    one_model,
    points_drawn,
)

TITLES = {
    "random": "random directions",
    "hessian": "largest and smallest λ",
    "manifold": "along, across answers",
    "minima": "to the runner-up",
    "trajectory": "PCA of the sampler",
}
# Contours in nats: a factor of e, e⁴, … in the density that E describes.
CONTOURS = (1, 4, 16, 64, 256)
PATH = PALETTE["vermillion"]


def figures(
    metrics: pa.Table, grid: pa.Table, tracks: pa.Table, title: str = "", note: str = ""
) -> dict[str, Figure]:
    """All figures of one model.

    Args:
        metrics: of `landscape_tables` under all conditions, "trained" among them.
        grid: of the trained model alone.
        tracks: likewise.
        title: of every figure.
        note: a line below it.

    Returns:
        slices, minima and barriers.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = by_condition(metrics)
    return {
        "slices": figure_slices(grid, tracks, title, note),
        "minima": figure_minima(tables, title, note),
        "barriers": figure_barriers(tables, title, note),
    }


@style()
def figure_slices(grid: pa.Table, tracks: pa.Table, title: str = "", note: str = "") -> Figure:
    """Slices of one problem, a row per family of directions and a column per level.

    Args:
        grid: of one model; the problem with the lowest id is drawn.
        tracks: of the same.
        title: of the figure.
        note: a line below the title.

    Raises:
        TableError: no slices, or those of several models.
    """
    frame, track = (one_model(table, "perturbed").to_pandas() for table in (grid, tracks))
    problem = frame["problem_id"].min()
    frame, track = (part[part["problem_id"] == problem] for part in (frame, track))
    levels = sorted(frame["t"].unique(), reverse=True)
    figure, axes = panel_grid(len(FAMILIES), len(levels), 2.0, 1.95, sharex=True, sharey=True)
    for (family, kinds), line in zip(FAMILIES.items(), axes, strict=True):
        for t, ax in zip(levels, line, strict=True):
            parts = [_of(part, t, kinds) for part in (frame, track)]
            _slice(ax, *parts)
        line[0].set_ylabel(f"{TITLES[family]}\nβ (σ$_t$)")
    for t, top, bottom in zip(levels, axes[0], axes[-1], strict=True):
        top.set_title(f"level t = {t}")
        bottom.set_xlabel("α (σ$_t$)")
    best = frame["dE_oracle"].notna().any()
    handles = [
        Line2D([], [], color="0.25", linewidth=0.7, label="1, 4, 16, 64, 256 nats above the answer"),
        Line2D([], [], marker="+", color="black", linestyle="", label="right answer, √ᾱ$_t$y*"),
        Line2D([], [], marker=".", color=PATH, linewidth=0.9, label="the sampler at this level, projected"),
    ]
    if best:
        label = "the same of the Bayes-optimal energy"
        handles.append(Line2D([], [], color=PALETTE["green"], linestyle="--", linewidth=0.9, label=label))
    foot = (
        f"problem {problem}; red: above the energy of the answer, blue: below, darkest at 256 nats; "
        "circle: where the sampler leaves the level"
    )
    return framed(figure, title, note, foot, handles)


@style()
def figure_minima(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """How many minima there are, how many are wrong, and how much leads to the right ones.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(tables["trained"], "minimum")
    panels = {
        ("minima_count", ""): "distinct minima found",
        ("spurious_rate", ""): "share of them that are spurious",
        ("outside_box", ""): "share of them beyond ±2√ᾱ$_t$,\nwhere the sampler clamps",
        ("basin_fraction", "q_sample"): "noised answers that lead\nto a right minimum, share",
        ("basin_fraction", "sampler"): "ends of the sampler that lead\nto a right minimum, share",
        ("answer_distance", ""): "nearest minimum from √ᾱ$_t$y*\n(in typical norms of the noise)",
    }
    figure, axes = panel_grid(2, 3, 2.6, 2.2)
    for ax, ((metric, component), heading) in zip(axes.flat, panels.items(), strict=True):
        for (name, curves), width in _widest_first(tables):
            _mean_curve(ax, one_model(curves, "minimum"), metric, component, CONDITION_COLORS[name], width)
        ax.set_title(heading)
        level_axis(ax, table)
        if metric == "answer_distance":
            ax.set_yscale("symlog", linthresh=0.1)
            ax.set_ylim(bottom=0)
        elif metric == "minima_count":
            ax.set_ylim(bottom=0)
        else:
            ax.set_ylim(-0.05, 1.05)
    searches = _searches(table)
    foot = f"means over problems, bars: 95 % bootstrap over them; {points_drawn(table, 'minimum')}{searches}"
    return framed(figure, title, note, foot, condition_handles(tables))


@style()
def figure_barriers(tables: Mapping[str, pa.Table], title: str = "", note: str = "") -> Figure:
    """Distribution of the barrier between the right minimum and the runner-up, at each level.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
    """
    table = one_model(tables["trained"], "minimum")
    levels = sorted(pc.unique(table["t"]).to_pylist(), reverse=True)
    heights = {name: _heights(one_model(part, "minimum")) for name, part in tables.items()}
    pairs = sum(metric_rows(part, "barrier", "string")["value"].count() for part in tables.values())
    figure, (axes,) = panel_grid(1, len(levels), 2.2, 2.3, sharey=True, sharex=True)
    for t, ax in zip(levels, axes, strict=True):
        for (name, part), width in _widest_first(heights):
            here = np.sort(part.loc[part["t"] == t, "value"].to_numpy())
            share = np.arange(1, len(here) + 1) / len(here)
            ax.step(
                [0, *here, 1e3], [0, *share, 1], where="post", color=CONDITION_COLORS[name], linewidth=width
            )
        ax.set_xscale("symlog", linthresh=1e-3)
        ax.set_xlim(0, 1e3)
        ax.set_xticks([0, 1e-2, 1, 1e2])
        ax.set_ylim(0, 1.05)
        ax.set_title(f"level t = {t}")
        ax.set_xlabel("barrier B (nats)")
    axes[0].set_ylabel("share of landscapes\nwith a barrier of at most B")
    foot = (
        "0 nats: one minimum, no barrier. Verified saddle where there is one, else the highest image; "
        f"{pairs} pairs of minima in all; {points_drawn(table, 'minimum')}"
    )
    return framed(figure, title, note, foot, condition_handles(tables))


def _slice(ax: Axes, grid: pd.DataFrame, track: pd.DataFrame) -> None:
    """One panel: colours and contours of the model, contours of the oracle, the way of the sampler."""
    extent = grid["alpha"].max()
    ax.set_xlim(-extent, extent)
    ax.set_ylim(-extent, extent)
    ax.set_aspect("equal")
    if grid["dE"].isna().any():
        reason = textwrap.fill(grid["reason"].iloc[0], 20)
        ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", fontsize=6)
        return
    surfaces = {
        name: grid.pivot(index="beta", columns="alpha", values=name) / grid["sigma"].iloc[0]
        for name in ("dE", "dE_oracle")
    }
    energy = surfaces["dE"]
    axis = energy.columns.to_numpy()
    limit = np.arcsinh(CONTOURS[-1])
    edge = extent * (1 + 1 / (len(axis) - 1))
    ax.imshow(
        np.arcsinh(energy), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower",
        extent=(-edge, edge, -edge, edge), interpolation="nearest", alpha=0.7,
    )  # fmt: skip
    styles = {"dE": ("0.25", "-", 0.7), "dE_oracle": (PALETTE["green"], "--", 0.9)}
    for name, (color, linestyle, width) in styles.items():
        values = surfaces[name].to_numpy()
        drawn = [level for level in CONTOURS if values.min() < level < values.max()]
        if drawn:
            ax.contour(axis, axis, values, drawn, colors=color, linestyles=linestyle, linewidths=width)
    track = track.sort_values("move")
    ax.plot(track["alpha"], track["beta"], color=PATH, marker=".", linewidth=0.9)
    last = track.iloc[-1]
    ax.plot(last["alpha"], last["beta"], marker="o", color=PATH, markersize=5, fillstyle="none")
    ax.plot(0, 0, marker="+", color="black", markersize=6)


def _of(frame: pd.DataFrame, t: int, kinds: tuple[str, str]) -> pd.DataFrame:
    u_kind, v_kind = kinds
    return frame[(frame["t"] == t) & (frame["u_kind"] == u_kind) & (frame["v_kind"] == v_kind)]


def _widest_first(tables: Mapping[str, object]) -> list[tuple[tuple[str, object], float]]:
    """Conditions in reverse order with line widths that leave every one of several equal curves visible."""
    return list(zip(reversed(tables.items()), np.linspace(4, 1, len(tables)), strict=True))


def _mean_curve(ax: Axes, table: pa.Table, metric: str, component: str, color: str, width: float) -> None:
    """Mean over problems at each level, with its bootstrap interval as a bar."""
    values = by_level(table, metric, component)
    values = values.loc[:, values.notna().any()]
    if not values.size:
        return
    means = values.mean()
    bars = np.array([_mean_interval(column.dropna().to_numpy()) for _, column in values.items()]).T
    ax.errorbar(
        values.columns, means, abs(bars - means.to_numpy()), color=color, linewidth=width, elinewidth=0.6,
        marker="o",
    )  # fmt: skip


def _mean_interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    draws = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    return tuple(np.quantile(values[draws].mean(1), [0.025, 0.975]))


def _heights(table: pa.Table) -> pd.DataFrame:
    """Barrier of every landscape in nats: 0 where there is one minimum."""
    saddle, image = (metric_rows(table, "barrier", part) for part in ("saddle", "string"))
    saddle["value"] = saddle["value"].fillna(image["value"]).fillna(0.0)
    return saddle


def _searches(table: pa.Table) -> str:
    lost = metric_rows(table, "unconverged_rate")["value"].mean()
    return f"; {lost:.1%} of the trained model's searches did not converge"
