"""Figures of EXP-003 that show matrices: atoms, and the vectors that latents are active on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iredinterp.analyses.sae.atoms import as_matrices
from iredinterp.analyses.sae.interop import load_saelens
from iredinterp.figures import panel_grid, style
from iredinterp.panels import framed
from iredinterp.tables import read_table, tensor_column

ATOM_COLUMNS, ATOM_ROWS = 8, 2
# Of each field: latents, and the examples of each beside its atom.
LATENTS = 4
EXAMPLES = {"strongest": ("top", 1), "second": ("top", 2), "third": ("top", 3), "median": ("quantile", 0.5)}
EACH = "red +, blue −, each to its largest"


@dataclass(frozen=True)
class Shown:
    """The autoencoder reported on of one field.

    Attributes:
        field: its name.
        atoms: (m, n, p).
        density: (m,), share of vectors that use each latent.
        examples: of `iredinterp.analyses.sae.examples.examples_table`.
    """

    field: str
    atoms: np.ndarray
    density: np.ndarray
    examples: pa.Table

    @property
    def by_use(self) -> np.ndarray:
        """Latents by falling density."""
        return np.argsort(-self.density, kind="stable")


def read_shown(
    metrics: pa.Table,
    examples: Sequence[str | Path],
    folders: Sequence[str | Path],
    fields: Sequence[str],
    shape: tuple[int, int],
) -> list[Shown]:
    """What `iredinterp.analyses.sae.study.write` wrote of several fields.

    Args:
        metrics: of all fields, of one model, condition and width.
        examples: files, by field.
        folders: of exported autoencoders, by field.
        fields: their names.
        shape: (n, p), of the matrices.
    """
    shown = []
    for field, path, folder in zip(fields, examples, folders, strict=True):
        level = min(Path(folder).glob("level-*"))
        atoms = as_matrices(load_saelens(level).W_dec, shape).numpy()
        shown.append(Shown(field, atoms, densities(metrics, field), read_table(path)))
    return shown


def densities(metrics: pa.Table, field: str) -> np.ndarray:
    """Share of vectors that use each latent of the autoencoder reported on, (m,)."""
    wanted = pc.and_(pc.equal(metrics["metric"], "latent_density"), pc.equal(metrics["component"], field))
    return metrics.filter(wanted).sort_by("index")["value"].to_numpy()


@style()
def figure_atoms(fields: Sequence[Shown], title: str = "", note: str = "") -> Figure:
    """The atoms in most use, as matrices.

    Args:
        fields: one after another.
        title: of the figure.
        note: a line below it.
    """
    figure, axes = panel_grid(ATOM_ROWS * len(fields), ATOM_COLUMNS, 1.0, 1.1)
    for ax in axes.flat:
        ax.set_axis_off()
    for shown, rows in zip(fields, np.split(axes, len(fields)), strict=True):
        _beside(rows[0, 0], shown.field)
        for latent, ax in zip(shown.by_use, rows.flat, strict=False):
            _matrix(ax, shown.atoms[latent])
            ax.set_title(f"{latent}: {shown.density[latent]:.1%}", fontsize=7)
    return framed(
        figure, title, note, f"above each atom its latent and the share of vectors using it; {EACH}"
    )


@style()
def figure_examples(fields: Sequence[Shown], title: str = "", note: str = "") -> Figure:
    """Latents in most use: atom, the vectors they are most active on, a typical one, and the first's problem.

    Args:
        fields: one after another.
        title: of the figure.
        note: a line below it.
    """
    columns = ["atom", *EXAMPLES, "x", "y*"]
    figure, axes = panel_grid(LATENTS * len(fields), len(columns), 1.05, 1.15)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, fontsize=8)
    for shown, rows in zip(fields, np.split(axes, len(fields)), strict=True):
        frame = shown.examples.select(["latent", "kind", "rank", "t", "activation"]).to_pandas()
        known = [latent for latent in shown.by_use if (frame["latent"] == latent).any()]
        for latent, row in zip(known, rows, strict=False):
            _beside(row[0], f"{shown.field}\n{latent}")
            _matrix(row[0], shown.atoms[latent])
            _example_row(row[1:], frame[frame["latent"] == latent], shown.examples)
    foot = (
        "below each vector its level and activation; median: of the vectors on which the latent is active; x "
        f"and y* are those of the strongest; {EACH}"
    )
    return framed(figure, title, note, foot)


def _example_row(axes: np.ndarray, here: pd.DataFrame, examples: pa.Table) -> None:
    places = {(row.kind, row.rank): row.Index for row in here.itertuples()}
    for key, ax in zip(EXAMPLES.values(), axes, strict=False):
        if key in places:
            _matrix(ax, _tensor(examples, "vector", places[key]))
            found = here.loc[places[key]]
            text = f"t = {found['t']}, {found['activation']:.2g}"
            ax.text(0.5, -0.14, text, transform=ax.transAxes, ha="center", fontsize=6)
    for name, ax in zip(("x", "y_star"), axes[len(EXAMPLES) :], strict=True):
        _matrix(ax, _tensor(examples, name, places["top", 1]))


def _tensor(examples: pa.Table, name: str, row: int) -> np.ndarray:
    return tensor_column(examples.slice(row, 1), name)[0].numpy()


def _matrix(ax: Axes, matrix: np.ndarray) -> None:
    """Stacked matrices one below the other."""
    flat = matrix.reshape(-1, matrix.shape[-1])
    ax.imshow(flat / (np.abs(flat).max() or 1.0), cmap="RdBu_r", vmin=-1, vmax=1)


def _beside(ax: Axes, text: str) -> None:
    ax.text(-0.15, 0.5, text, transform=ax.transAxes, ha="right", va="center", fontsize=8)
