"""Figures of EXP-006. Level axes run from the noisiest level on the left to the sharpest on the right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iredinterp.analyses.score.names import MISSING, OTHER_MODEL, PICTURE, POSTERIOR, SHUFFLED
from iredinterp.figures import panel_grid, style
from iredinterp.names import BASES
from iredinterp.panels import (
    BOOTSTRAP,
    CONDITION_COLORS,
    NOISY_TO_SHARP,
    OPTIMUM,
    REFERENCE,
    by_condition,
    by_level,
    condition_curves,
    condition_handles,
    framed,
    isotropic_band,
    isotropic_handle,
    level_axis,
    logarithmic,
    metric_rows,
    model_and_optimum,
    one_model,
    points_drawn,
    reference_curve,
    reference_handle,
)

# The trained model against the answer of another problem.
OTHER = {"color": CONDITION_COLORS["trained"], "linestyle": ":"}
# Singular values of scores of size 1.
LEAST_DRAWN = 1e-4
HEADINGS = {
    "column": "column space of Y*",
    "row": "row space of Y*",
    "core": "core: both spaces",
    "tangent": "tangent space",
    "outer": "u$_i$v$_i^⊤$ of Y*",
    "symmetric": "symmetric matrices",
    MISSING: "missing entries",
    POSTERIOR: "posterior covariance",
    OTHER_MODEL: "another network",
}


def figures(metrics: pa.Table, title: str = "", note: str = "") -> dict[str, Figure]:
    """All figures of one model at its q_samples.

    Args:
        metrics: of `score_table` under all conditions, "trained" among them, and if there is one the
            `agreement_table` of the trained network with another.
        title: of every figure.
        note: a line below it.

    Returns:
        overlap, eigenmatrices and shares.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = by_condition(metrics)
    return {
        "overlap": figure_overlap(tables, title, note),
        "eigenmatrices": figure_eigenmatrices(tables, title, note),
        "shares": figure_shares(tables, title, note),
    }


@style()
def figure_overlap(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", point_kind: str = "q_sample"
) -> Figure:
    """Where the leading eigenvectors of ∇D lie, a panel per reference, each beside chance.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        point_kind: which points.
    """
    table, _ = model_and_optimum(tables, point_kind)
    there = set(table.filter(pc.equal(table["metric"], "overlap"))["component"].to_pylist())
    names = [name for name in (*BASES, MISSING, POSTERIOR, OTHER_MODEL) if name in there]
    figure, axes = panel_grid(2, -(-len(names) // 2), 2.1, 2.0, sharex=True, sharey=True)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names, strict=False):
        chance, deviation = (by_level(table, f"overlap_{part}", name).median() for part in ("null", "sd"))
        low, high = (chance - 2 * deviation).clip(lower=0), (chance + 2 * deviation).clip(upper=1)
        ax.fill_between(chance.index, low, high, color="0.88", linewidth=0)
        ax.plot(chance.index, chance, **REFERENCE)
        if name not in (POSTERIOR, OTHER_MODEL):
            other = by_level(table, "overlap_shuffled", name).median()
            ax.plot(other.index, other, **OTHER)
        condition_curves(ax, tables, point_kind, "overlap", name)
        ax.set_title(HEADINGS[name])
        level_axis(ax, table)
    for ax in axes[0]:
        ax.set_xlabel("")
    axes[0, 0].set_ylim(0, 1.03)
    for ax in axes[:, 0]:
        ax.set_ylabel("overlap (0 to 1)")
    handles = [
        *condition_handles(tables),
        Line2D([], [], **OTHER, label="trained, of another problem"),
        reference_handle("chance: random eigenvectors"),
        Patch(color="0.88", label="± 2 sd of chance at one point"),
    ]
    foot = f"{points_drawn(table, point_kind)}; {_above_floor(tables, point_kind)}{BOOTSTRAP}"
    return framed(figure, title, note, foot, handles)


@style()
def figure_eigenmatrices(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", point_kind: str = "q_sample"
) -> Figure:
    """Leading eigenvectors of ∇D as matrices, at every level, for the problem where most are defined.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        point_kind: which points.
    """
    table, best = model_and_optimum(tables, point_kind)
    pictures = {"trained": _pictures(table)} | ({} if best is None else {OPTIMUM: _pictures(best)})
    reason = metric_rows(table if best is None else best, PICTURE, "1")["reason"].dropna().unique().tolist()
    problem = _most_defined(pictures)
    drawn = {name: frame.loc[problem] for name, frame in pictures.items() if frame.notna().any(axis=None)}
    drawn = drawn or {"trained": pictures["trained"].loc[problem]}
    rows = [(name, component) for name in drawn for component in drawn[name].index.unique("component")]
    levels = sorted(pictures["trained"].index.unique("t"), reverse=True)
    n = table["n"][0].as_py()
    figure, axes = panel_grid(len(rows), len(levels), 0.85, 0.95)
    for line, (name, component) in zip(axes, rows, strict=True):
        for ax, t in zip(line, levels, strict=True):
            _draw_matrix(ax, drawn[name].loc[component, t].to_numpy().reshape(n, -1))
        line[0].set_ylabel(f"{name}\nv$_{component}$", fontsize=8)
    for ax, t in zip(axes[0], levels, strict=True):
        ax.set_title(f"t = {t}")
    foot = f"problem {problem}, levels {NOISY_TO_SHARP}; red positive, blue negative, each to its largest"
    for name in pictures.keys() - drawn.keys():
        foot += f"; {name}: {'; '.join(reason)}, at every point pictured"
    if any(ax.texts for ax in axes.flat):
        foot += "; –: below the noise floor"
    return framed(figure, title, note, foot)


@style()
def figure_shares(
    tables: Mapping[str, pa.Table], title: str = "", note: str = "", point_kind: str = "q_sample"
) -> Figure:
    """Diagonal share of gradients, size and negative mass of ∇D, and singular values of scores.

    Args:
        tables: by condition.
        title: of the figure.
        note: a line below the title.
        point_kind: which points.
    """
    table, _ = model_and_optimum(tables, point_kind)
    figure, (axes,) = panel_grid(1, 4, 2.7, 2.4)
    isotropic_band(axes[0], table, "diagonal_share")
    reference_curve(axes[0], table, "diagonal_share_null")
    other = by_level(table, "diagonal_share", SHUFFLED).median()
    axes[0].plot(other.index, other, **OTHER)
    reference_curve(axes[1], table, "noise_floor")
    leading = {name: rows.filter(pc.equal(rows["index"], 0)) for name, rows in tables.items()}
    for ax, metric in zip(axes, ("diagonal_share", "response_eigenvalue", "negative_mass"), strict=False):
        condition_curves(ax, leading, point_kind, metric)
        level_axis(ax, table)
    axes[0].set_title("gradient: diagonal share")
    axes[0].set_ylabel("Σ(u$_i^⊤$Gv$_i$)² / ‖G‖²")
    axes[1].set_title("largest eigenvalue of ∇D")
    axes[1].set_ylabel("√ᾱ$_t$λ$_\\mathrm{max}$ (dimensionless)")
    axes[2].axhline(0.5, **REFERENCE)
    axes[2].set_title("negative mass of ∇D")
    axes[2].set_ylabel("Σ|λ₋| / Σ|λ|")
    for ax in axes[:3]:
        ax.set_ylim(bottom=0)
    _score_spectra(axes[3], tables, point_kind)
    handles = [
        *condition_handles(tables),
        Line2D([], [], **OTHER, label="trained, answer of another problem"),
        reference_handle("chance; noise floor; symmetric error"),
        isotropic_handle(),
        Line2D([], [], color="0.3", marker="v", linestyle="none", label="median normal dimension"),
    ]
    foot = f"medians over problems; {points_drawn(table, point_kind)}{BOOTSTRAP}"
    return framed(figure, title, note, foot, handles)


def _score_spectra(ax: Axes, tables: Mapping[str, pa.Table], point_kind: str) -> None:
    """Median singular values of scores, and where they drop."""
    for name, table in tables.items():
        table = one_model(table, point_kind)
        rows = table.filter(pc.equal(table["metric"], "score_singular_value")).to_pandas()
        values = rows.groupby("index")["value"].median()
        color = CONDITION_COLORS[name]
        ax.plot(values.index + 1, values, color=color, linewidth=1.4 if name == "trained" else 1)
        dimension = metric_rows(table, "normal_dimension")["value"].median()
        if not np.isnan(dimension):
            ax.plot(dimension, np.interp(dimension, values.index + 1, values), "v", color=color, markersize=5)
    logarithmic(ax)
    ax.set_ylim(bottom=max(ax.get_ylim()[0], LEAST_DRAWN))
    ax.set_title("scores around the answer, t = 0")
    ax.set_xlabel("number of the singular value")
    ax.set_ylabel("singular value / √m")


def _above_floor(tables: Mapping[str, pa.Table], point_kind: str) -> str:
    """Share of points whose Jacobian is compared with anything."""
    shares = []
    for name in (name for name in ("trained", "oracle") if name in tables):
        defined = metric_rows(one_model(tables[name], point_kind), "overlap_sd", "tangent")["value"].notna()
        shares.append(f"{defined.mean():.0%} of {name if name == 'trained' else OPTIMUM}")
    return f"compared: {' and '.join(shares)}, whose Jacobian is above the noise floor"


def _pictures(table: pa.Table) -> pd.DataFrame:
    """Eigenmatrices, (problem, component, t) × entries."""
    rows = table.filter(pc.equal(table["metric"], PICTURE)).to_pandas()
    return rows.pivot(index=["problem_id", "component", "t"], columns="index", values="value")


def _most_defined(pictures: Mapping[str, pd.DataFrame]) -> int:
    """The problem with most pictures of all models, the first of several."""
    counts = sum(frame.notna().all(axis=1).groupby("problem_id").sum() for frame in pictures.values())
    return int(counts.idxmax())


def _draw_matrix(ax: Axes, matrix: np.ndarray) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(True)
    if np.isnan(matrix).any():
        ax.text(0.5, 0.5, "–", transform=ax.transAxes, ha="center", va="center", color="0.4")
        ax.set_aspect("equal")
        return
    largest = np.abs(matrix).max()
    ax.imshow(matrix, cmap="RdBu_r", vmin=-largest, vmax=largest)
