"""What answers single out in the space of matrices."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.score.gradients import SingularFrames
from iredinterp.analyses.score.names import MISSING
from iredinterp.bases import BASES, GeometricBases
from iredinterp.errors import ConfigError
from iredinterp.geometry.subspace import GAP_TOLERANCE
from iredinterp.points import reference_matrices
from iredinterp.tables import tensor_column


@dataclass(frozen=True)
class References:
    """What P answers single out in the space of matrices.

    Attributes:
        frames: singular directions.
        bases: of rank q.
        mask: 1 where an entry is observed, (P, d), if there is one.
    """

    frames: SingularFrames
    bases: GeometricBases
    mask: Tensor | None

    @classmethod
    def of(cls, problems: pa.Table, rank: int, device: torch.device) -> References:
        """Those of a problems table.

        Raises:
            ConfigError: no such rank.
        """
        Y = reference_matrices(problems).to(device)
        most = min(Y.shape[1:])
        if not 1 <= rank <= most:
            raise ConfigError(f"score: rank: found {rank}, allowed 1 … min(n, m) = {most}; lower it")
        mask = None
        if "mask" in problems.column_names:
            mask = tensor_column(problems, "mask").double().flatten(1).to(device)
        return cls(SingularFrames.of(Y), GeometricBases.from_reference(Y, rank), mask)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.bases.shape

    @property
    def names(self) -> list[str]:
        """Subspaces that there are: of `BASES`, and the missing entries."""
        n, m = self.shape
        bases = [name for name in BASES if name != "symmetric" or n == m]
        return bases + [MISSING] * (self.mask is not None)

    def project(self, name: str, rows: Tensor, stack: Tensor) -> Tensor:
        """Directions, (B, d, k), projected on a subspace of some answers."""
        if name == MISSING:
            return (1 - self.mask[rows]).unsqueeze(-1) * stack
        return self._bases(rows).project(name, stack)

    def dimension(self, name: str, rows: Tensor) -> Tensor:
        """Dimension of a subspace of some answers, (B,)."""
        if name == MISSING:
            return (1 - self.mask[rows]).sum(1)
        return torch.full(rows.shape, float(self.bases.k_dim(name)), dtype=torch.float64, device=rows.device)

    def identified(self, name: str, rows: Tensor) -> Tensor:
        """Whether a subspace exists and is told from others by gaps, (B,)."""
        if name == MISSING:
            return self.dimension(name, rows) > 0
        if name == "symmetric":
            return torch.ones_like(rows, dtype=torch.bool)
        known = self.bases.gap[rows] > GAP_TOLERANCE
        return known & self.frames.simple[rows] if name == "outer" else known

    def _bases(self, rows: Tensor) -> GeometricBases:
        return GeometricBases(self.bases.U[rows], self.bases.V[rows], self.bases.gap[rows])
