"""Which atoms lie beside which: a map in the plane, for the eye only.

Read neighbourhoods off it, not distances: how far apart groups lie, and how dense they look, follows from the
method.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.model import checked_vectors
from iredinterp.errors import ConfigError

# The spectral start of a map in the plane needs as many.
LEAST = 4


def atom_map(atoms: Tensor, seed: int, neighbours: int = 15, signed: bool = False) -> Tensor:
    """A UMAP of atoms by cosine distance.

    Args:
        atoms: (m, d), no row zero; leave out latents that are never active, whose atoms are arbitrary.
        seed: of the layout.
        neighbours: how many of its nearest atoms, itself among them, each one should stay beside; all where
            there are fewer.
        signed: whether codes have signs; an atom and its negative are then the same.

    Returns:
        (m, 2), float64.

    Raises:
        ConfigError: umap-learn is not installed, fewer than four atoms, fewer than two neighbours, or an atom
            that is not finite.

    Source:
        McInnes, Healy & Melville 2018 (arXiv:1802.03426).
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise ConfigError("a map of atoms needs umap-learn; run pip install iredinterp[umap]") from error
    if len(atoms) < LEAST or neighbours < 2:
        raise ConfigError(
            f"a map needs {LEAST} atoms and 2 neighbours at least; "
            f"found {len(atoms)} atoms and {neighbours} neighbours"
        )
    units = F.normalize(checked_vectors(atoms.cpu()).double(), dim=1)
    cosines = units @ units.mT
    distances = (1 - (cosines.abs() if signed else cosines)).clamp(min=0).fill_diagonal_(0)
    layout = UMAP(
        n_neighbors=min(neighbours, len(atoms) - 1), metric="precomputed", random_state=seed, n_jobs=1
    )
    with warnings.catch_warnings():
        # Nobody asks for the inverse map.
        warnings.filterwarnings("ignore", "using precomputed metric", UserWarning)
        return torch.from_numpy(layout.fit_transform(distances.numpy())).double()
