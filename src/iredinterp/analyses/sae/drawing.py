"""Figures of EXP-003."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from iredinterp.analyses.sae.fidelity import PLACES
from iredinterp.analyses.sae.study import REAL
from iredinterp.errors import TableError
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import framed

DATA_COLORS = {
    REAL: PALETTE["black"],
    "gaussian": PALETTE["vermillion"],
    "shuffled": PALETTE["orange"],
    "pca": PALETTE["blue"],
    "samples": PALETTE["sky"],
    "random": PALETTE["purple"],
}
DATA_LABELS = {
    REAL: "the gradient field",
    "gaussian": "Gaussian of the same mean and covariance",
    "shuffled": "coordinates shuffled",
    "pca": "PCA, pursuit",
    "samples": "data samples as atoms, pursuit",
    "random": "random atoms, pursuit",
}
RECONSTRUCTIONS = {
    "autoencoder": PALETTE["black"],
    "mean": PALETTE["orange"],
    "random": PALETTE["vermillion"],
}
SHOWN_ATOMS = 24


def figures(metrics: pa.Table, atoms: Tensor, title: str = "", note: str = "") -> dict[str, Figure]:
    """All figures of one trained model.

    Args:
        metrics: of `iredinterp.analyses.sae.study.study`, all fields of one model, condition and width.
        atoms: (m, n, p), of the field "gradient".
        title: of every figure.
        note: a line below it.

    Returns:
        frontier, atoms, density, stability and fidelity.

    Raises:
        TableError: rows of several conditions.
    """
    if len(found := pc.unique(metrics["condition"]).to_pylist()) != 1:
        raise TableError(f"figure: a figure of EXP-003 shows one condition; found {', '.join(found)}")
    frame = metrics.drop_columns(["problem_id"]).to_pandas()
    return {
        "frontier": figure_frontier(frame, title, note),
        "atoms": figure_atoms(frame, atoms, title, note),
        "density": figure_density(frame, title, note),
        "stability": figure_stability(frame, title, note),
        "fidelity": figure_fidelity(frame, title, note),
    }


@style()
def figure_frontier(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Variance unexplained against latents in use, beside null data and untrained dictionaries."""
    fields = _fields(frame)
    figure, (axes,) = panel_grid(1, len(fields), 3.6, 2.7, sharey=True)
    for field, ax in zip(fields, axes, strict=True):
        here = frame[(frame["component"] == field) & frame["metric"].isin(["FVU", "L0"])]
        for data, color in DATA_COLORS.items():
            points = here[here["data"] == data].pivot_table(
                index=["k", "sae_seed"], columns="metric", values="value", dropna=False
            )
            points = points.dropna().groupby("k").mean().sort_values("L0")
            line = "-" if data in (REAL, "gaussian", "shuffled") else "--"
            ax.plot(points["L0"], points["FVU"], line, marker="o", color=color)
        ax.set_xlabel("latents in use per vector (L0)")
        ax.set_title(field)
        ax.set_ylim(0, 1.02)
    axes[0].set_ylabel("variance unexplained (FVU)")
    handles = [
        Line2D([], [], color=color, marker="o", label=DATA_LABELS[data])
        for data, color in DATA_COLORS.items()
    ]
    foot = "trained ones on held-out problems, mean over training seeds; the others on all"
    return framed(figure, title, note, foot, handles)


@style()
def figure_atoms(frame: pd.DataFrame, atoms: Tensor, title: str = "", note: str = "") -> Figure:
    """The atoms in most use, as matrices."""
    density = _densities(frame, _fields(frame)[0])
    order = np.argsort(-density)[:SHOWN_ATOMS]
    columns = 8
    figure, axes = panel_grid(-(-len(order) // columns), columns, 1.0, 1.1)
    for ax in axes.flat:
        ax.set_axis_off()
    for index, ax in zip(order, axes.flat, strict=False):
        atom = atoms[index].double() / atoms[index].double().abs().max()
        ax.imshow(atom.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_title(f"{density[index]:.1%}", fontsize=7)
    foot = (
        "field gradient; above each atom the share of vectors that use it; red +, blue −, each to its largest"
    )
    return framed(figure, title, note, foot)


@style()
def figure_density(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """How often latents are in use."""
    fields = _fields(frame)
    figure, (axes,) = panel_grid(1, len(fields), 3.2, 2.4, sharey=True)
    for field, ax in zip(fields, axes, strict=True):
        density = _densities(frame, field)
        used = density[density > 0]
        ax.hist(np.log10(used), bins=30, color=PALETTE["blue"])
        ax.set_title(f"{field}: {len(used)} of {len(density)} in use")
        ax.set_xlabel("log₁₀ share of vectors")
        ax.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel("latents")
    return framed(figure, title, note, "first training seed, first k")


@style()
def figure_stability(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Agreement of two trainings, concepts and atom structure, each beside chance."""
    fields = _fields(frame)
    figure, (axes,) = panel_grid(1, 3, 3.1, 2.6)
    places = np.arange(len(fields))
    for shift, (metric, color) in enumerate((("stability", "blue"), ("stability_chance", "orange"))):
        axes[0].bar(places + 0.4 * shift, _values(frame, metric, fields), 0.4, color=PALETTE[color])
    axes[0].set_xticks(places + 0.2, fields)
    axes[0].set_ylim(0, 1)
    axes[0].set_title("same atoms from two seeds (cosine)")
    concepts = frame[frame["metric"].isin(["auroc", "auroc_selected", "auroc_permuted"])]
    means = concepts.groupby("metric")["value"].agg(["mean", "max"])
    for place, (metric, color) in enumerate(
        (("auroc_selected", "sky"), ("auroc", "blue"), ("auroc_permuted", "orange"))
    ):
        axes[1].bar(place, means.loc[metric, "max"], 0.6, color=PALETTE[color], alpha=0.4)
        axes[1].bar(place, means.loc[metric, "mean"], 0.6, color=PALETTE[color])
    axes[1].set_xticks(range(3), ["where\nchosen", "on other\nproblems", "labels\npermuted"])
    axes[1].set_ylim(0.45, 1)
    axes[1].axhline(0.5, color="0.3", linestyle="--", linewidth=0.8)
    axes[1].set_title("concept AUROC: mean, pale: best")
    shapes = ("rank_one_share", "row_concentration", "column_concentration", "symmetric_share")
    for shift, suffix, color in ((0, "", "blue"), (0.4, "_chance", "orange")):
        values = [_values(frame, name + suffix, fields[:1])[0] for name in shapes]
        axes[2].bar(np.arange(len(shapes)) + shift, values, 0.4, color=PALETTE[color])
    axes[2].set_xticks(
        np.arange(len(shapes)) + 0.2, ["rank\none", "row", "column", "sym-\nmetric"], fontsize=7
    )
    axes[2].set_title(f"shape of atoms, field {fields[0]}")
    handles = [Patch(color=PALETTE["blue"], label="found"), Patch(color=PALETTE["orange"], label="by chance")]
    return framed(figure, title, note, "latents in use only", handles)


@style()
def figure_fidelity(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """What the sampler's error keeps when a reconstruction stands in for the gradient."""
    rows = frame[frame["metric"].str.startswith("fidelity_mse")]
    figure, (axes,) = panel_grid(1, 1, 6.4, 2.6)
    if rows.empty:
        axes[0].text(0.5, 0.5, "no field of sampler runs was analysed", ha="center", va="center")
        return framed(figure, title, note, "")
    values = rows.set_index(["metric", "component"])["value"]
    places = list(PLACES)
    for shift, (name, color) in enumerate(RECONSTRUCTIONS.items()):
        for place, where in enumerate(places):
            centre, low, high = (
                values[f"fidelity_mse{end}", f"{where}/{name}"] for end in ("", "_low", "_high")
            )
            at = place + 0.25 * (shift - 1)
            if np.isnan(centre):
                axes[0].text(at, 0.02, "–", ha="center", color=color)
                continue
            axes[0].bar(at, centre, 0.25, color=color)
            axes[0].plot([at, at], [low, high], color="0.5", linewidth=1.5)
    axes[0].set_xticks(range(len(places)), [where.replace("_", ",\n") for where in places])
    axes[0].axhline(1, color="0.3", linestyle="--", linewidth=0.8)
    axes[0].set_ylabel("fidelity F")
    handles = [Patch(color=color, label=name) for name, color in RECONSTRUCTIONS.items()]
    foot = (
        "F = (error with g = 0 − error with ĝ)/(error with g = 0 − error with g); 95 % bootstrap over "
        "problems; –: the sampler does as well without a gradient there"
    )
    return framed(figure, title, note, foot, handles)


def _fields(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame.loc[frame["metric"] == "FVU", "component"]))


def _densities(frame: pd.DataFrame, field: str) -> np.ndarray:
    rows = frame[(frame["metric"] == "density") & (frame["component"] == field)]
    return rows.sort_values("index")["value"].to_numpy()


def _values(frame: pd.DataFrame, metric: str, fields: list[str]) -> list[float]:
    rows = frame[(frame["metric"] == metric) & (frame["data"] == REAL)].set_index("component")["value"]
    return [float(rows.get(field, np.nan)) for field in fields]
