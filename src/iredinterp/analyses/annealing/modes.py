"""Errors of answers along single directions: the singular ones of the right answer, and random ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.linalg import relative_rounding


@dataclass(frozen=True)
class Directions:
    """Rank-one directions u_i v_iᵀ of B answers, orthonormal.

    Attributes:
        left: u, (B, n, r).
        right: v, (B, m, r).
    """

    left: Tensor
    right: Tensor

    @classmethod
    def random(cls, noise: Tensor, n: int, m: int) -> Directions:
        """Haar-distributed ones from standard normal numbers (B, (n + m)·min(n, m))."""
        r = min(n, m)
        left, right = noise.split([n * r, m * r], dim=1)
        # The signs that QR leaves open do not matter to |uᵀDv|.
        return cls(*(torch.linalg.qr(part.unflatten(1, (-1, r))).Q for part in (left, right)))

    def errors(self, difference: Tensor) -> Tensor:
        """e_i = |u_iᵀ D v_i| for D (…, B, n, m): (…, B, r)."""
        return torch.einsum("bni,...bnm,bmi->...bi", self.left, difference, self.right).abs()


def singular_directions(answers: Tensor) -> tuple[Tensor, Directions]:
    """Singular values s, (B, r), descending, exactly 0 below rounding, and directions of Y*, (B, n, m)."""
    U, s, Vh = torch.linalg.svd(answers, full_matrices=False)
    s = s.where(s > relative_rounding(answers) * s[:, :1], 0)
    return s, Directions(U, Vh.mT)


def coarse_first_exponent(errors: Tensor, s: Tensor, smallest: Tensor) -> Tensor:
    """−d ln e_i / d ln s_i by least squares over the i with s_i > 0.

    Args:
        errors: e, (…, B, r).
        s: (B, r).
        smallest: (B,), errors at or below it are rounding.

    Returns:
        (…, B): positive where large singular values are settled better; NaN where fewer than two of them
        differ, or an error is rounding.
    """
    used = (s > 0).to(errors)
    count = used.sum(-1)
    log_s = s.where(s > 0, 1).log()
    centred = (log_s - ((used * log_s).sum(-1) / count)[..., None]) * used
    spread = centred.square().sum(-1)
    undefined = ~(spread > 1e-20) | ((errors <= smallest[:, None]) & (s > 0)).any(-1)
    logs = errors.where((errors > 0) & (s > 0), 1).log()
    return (-(centred * logs).sum(-1) / spread).masked_fill(undefined, torch.nan)


def settled_level(errors: Tensor, s: Tensor, tolerance: float) -> Tensor:
    """max{t: e_i(t′) < τ s_i for all t′ ≤ t}, the level from which on a direction is right.

    Args:
        errors: (K, B, r) after levels K−1 … 0.
        s: (B, r).
        tolerance: τ.

    Returns:
        (B, r); NaN where the error at level 0 is larger, or s_i = 0.
    """
    right = errors < tolerance * s
    levels = right.flip(0).long().cumprod(0).sum(0)
    return (levels - 1.0).masked_fill(levels == 0, torch.nan).to(errors)
