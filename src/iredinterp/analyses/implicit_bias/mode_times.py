"""When a network comes to answer along single directions: mode times, and what they are held against.

The i-th mode of a problem is the part of its answer along u_iv_iᵀ, of size s_i; it is learnt from the first
snapshot on after which the answers never again have less than half of it. Errors of one size in every
direction settle large modes before small ones as they shrink, whatever is learnt. Two references show how
much of an order that makes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iredinterp.analyses.implicit_bias.names import LEARNT
from iredinterp.linalg import relative_rounding


@dataclass(frozen=True)
class Modes:
    """Rank-one directions of P answers and how much of each the right answer has.

    Attributes:
        left: u, (P, n, r).
        right: v, (P, m, r).
        frame: orthonormal random matrices, flattened, (P, nm, r).
        answers: Y*, (P, n, m).
        size: u_iᵀY*v_i, (P, r); exactly 0 where it is rounding.
    """

    left: Tensor
    right: Tensor
    frame: Tensor
    answers: Tensor
    size: Tensor

    @classmethod
    def singular(cls, answers: Tensor, noise: Tensor) -> Modes:
        """Singular directions of Y*, (P, n, m), with a frame from normal numbers (P, nm·min(n, m))."""
        U, s, Vh = torch.linalg.svd(answers, full_matrices=False)
        s = s.where(s > relative_rounding(answers) * s[:, :1], 0)
        return cls(U, Vh.mT, haar_frame(noise.unflatten(1, (-1, s.shape[1]))), answers, s)

    def random(self, noise: Tensor) -> Modes:
        """As many random orthonormal directions, from normal numbers (P, (n + m)·min(n, m))."""
        (n, r), m = self.left.shape[1:], self.right.shape[1]
        parts = noise.split([n * r, m * r], dim=1)
        left, right = (haar_frame(part.unflatten(1, (-1, r))) for part in parts)
        size = torch.einsum("pni,pnm,pmi->pi", left, self.answers, right)
        return Modes(left, right, self.frame, self.answers, size)

    def share(self, answers: Tensor) -> Tensor:
        """(u_iᵀŶv_i) / (u_iᵀY*v_i), (…, P, r), of answers (…, P, n, m); NaN where Y* has none."""
        found = torch.einsum("pni,...pnm,pmi->...pi", self.left, answers, self.right)
        return (found / self.size).where(self.size != 0, torch.nan)

    def turned_share(self, answers: Tensor) -> Tensor:
        """The same of answers whose errors are turned at random, by one rotation per problem.

        What a rotation of matrix space takes to u_iv_iᵀ is a random frame: the errors keep their sizes and
        the angles between one snapshot and another, and forget the singular directions.
        """
        errors = (answers - self.answers).flatten(-2)
        found = self.size + torch.einsum("pdi,...pd->...pi", self.frame, errors)
        return (found / self.size).where(self.size != 0, torch.nan)


def haar_frame(noise: Tensor) -> Tensor:
    """Uniformly random orthonormal columns, (…, d, r), from standard normal numbers of that shape."""
    Q, R = torch.linalg.qr(noise)
    # The signs that QR leaves open are its own, and not even-handed.
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def mode_times(share: Tensor, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between which steps each mode was learnt.

    Args:
        share: (K, …), of each mode at the snapshots, signed: an answer with −s_i has not learnt it.
        steps: (K,), ascending from 0.

    Returns:
        Lower and upper bound, (…) each, float64: [0, first step above 0] where it was there by then, an
        infinite upper bound where it was not at the end, NaN where the share is.
    """
    learnt = share >= LEARNT
    sustained = learnt.flip(0).long().cumprod(0).sum(0)
    first = (len(steps) - sustained).cpu().numpy()
    bounds = np.append(steps.astype(float), np.inf)
    lower = bounds[np.maximum(first - 1, 0)]
    upper = bounds[np.maximum(first, 1)]
    undefined = share.isnan().any(0).cpu().numpy()
    return np.where(undefined, np.nan, lower), np.where(undefined, np.nan, upper)


def shuffled_within(size: Tensor, order: Tensor) -> Tensor:
    """Sizes dealt anew among the modes of each problem.

    Args:
        size: (P, r), descending, 0 where there is no mode.
        order: numbers that decide, (P, r).

    Returns:
        (P, r); NaN where there is no mode, or no other.
    """
    there = size > 0
    dealt = size.gather(1, order.masked_fill(~there, torch.inf).argsort(1))
    return dealt.where(there & (there.sum(1, keepdim=True) > 1), torch.nan)
