"""One gradient as a matrix, in the singular basis of the answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.bases import beta_band
from iredinterp.geometry.subspace import GAP_TOLERANCE


@dataclass(frozen=True)
class SingularFrames:
    """Singular directions u_i v_iᵀ that P matrices have.

    Attributes:
        U: (P, n, q), orthonormal columns.
        V: (P, m, q), orthonormal columns.
        present: (P, q), where the singular value is not zero.
        simple: (P,), whether those are told apart by gaps, without which u_i and v_i are arbitrary.
    """

    U: Tensor
    V: Tensor
    present: Tensor
    simple: Tensor

    @classmethod
    def of(cls, matrices: Tensor, tolerance: float = GAP_TOLERANCE) -> SingularFrames:
        """Those of (P, n, m) matrices; gaps count above the tolerance, relative to σ₁."""
        U, singular_values, Vh = torch.linalg.svd(matrices.double(), full_matrices=False)
        least = tolerance * singular_values[:, :1]
        present = singular_values > least
        apart = -pad(singular_values, (0, 1)).diff() > least
        return cls(U, Vh.mT, present, present[:, 0] & (apart | ~present).all(1))

    @property
    def count(self) -> Tensor:
        """Number of directions, (P,)."""
        return self.present.sum(1)

    def diagonal_share(self, G: Tensor, rows: Tensor) -> Tensor:
        """D = Σ_i (u_iᵀ G v_i)²/‖G‖_F², of an isotropic G Beta(q/2, (nm − q)/2) with mean q/nm: 1/n if q = n
        = m.

        Args:
            G: (B, n, m).
            rows: frame of each, (B,).

        Returns:
            (B,) in [0, 1]; NaN where G is zero or not finite, or the frame not simple.
        """
        diagonal = torch.einsum("bnq,bnm,bmq->bq", self.U[rows], G, self.V[rows])
        size = G.square().sum((1, 2))
        known = self.simple[rows] & (size > 0) & size.isfinite()
        return ((diagonal.square() * self.present[rows]).sum(1) / size).where(known, torch.nan)

    def chance(self, level: float = 0.95) -> Tensor:
        """Mean and central interval of D for isotropic gradients, (P, 3)."""
        d = self.U.shape[1] * self.V.shape[1]
        laws = {q: (q / d, *beta_band(q, d, level)) for q in self.count.unique().tolist()}
        found = torch.tensor([laws[q] for q in self.count.tolist()]).to(self.U)
        return found.where(self.simple.unsqueeze(1), torch.nan)
