"""Directions that a reference matrix singles out in the space of matrices, and what chance gives there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.names import BASES


@dataclass(frozen=True)
class GeometricBases:
    """Directions in the space of n×m matrices that a reference matrix Y = UΣVᵀ of rank q singles out.

    A direction is the row-major flattening of a matrix Z, so P_U⊗I acts as Z ↦ P_U Z and I⊗P_V as
    Z ↦ Z P_V. With P_U = UUᵀ and P_V = VVᵀ the bases are

        column     P_U⊗I                           q·m           keeps the column space of Y
        row        I⊗P_V                           q·n           keeps the row space
        core       P_U⊗P_V                         q²            keeps both
        tangent    P_U⊗I + I⊗P_V − P_U⊗P_V         q(n+m−q)      tangent to the matrices of rank q at Y
        outer      span of the u_i v_iᵀ            q             changes singular values
        symmetric  Z ↦ (Z + Zᵀ)/2                  n(n+1)/2      needs n = m, no reference

    Attributes:
        U: (B, n, q), orthonormal columns.
        V: (B, m, q), orthonormal columns, in the order of U.
        gap: (B,), (σ_q − σ_{q+1})/σ₁ of the reference; at 0 the subspaces are arbitrary, and NaN says that
            the reference is zero.

    Source:
        Vandereycken 2013 for the tangent space of the manifold of rank-q matrices.
    """

    U: Tensor
    V: Tensor
    gap: Tensor

    @classmethod
    def from_reference(cls, reference: Tensor, rank: int) -> GeometricBases:
        """Leading singular subspaces of reference matrices.

        Args:
            reference: Y, (B, n, m).
            rank: q, 1 … min(n, m).

        Raises:
            ValueError: no such rank.
        """
        most = min(reference.shape[-2:])
        if not 1 <= rank <= most:
            raise ValueError(f"rank must lie in 1 … min(n, m) = {most}, found {rank}")
        U, singular_values, Vh = torch.linalg.svd(reference, full_matrices=False)
        padded = pad(singular_values, (0, 1))
        gap = (padded[:, rank - 1] - padded[:, rank]) / padded[:, 0]
        return cls(U[..., :rank], Vh.mT[..., :rank], gap)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m) of the matrices."""
        return self.U.shape[-2], self.V.shape[-2]

    @property
    def rank(self) -> int:
        """Rank q of the reference."""
        return self.U.shape[-1]

    def k_dim(self, name: str) -> int:
        """Dimension of the subspace `name`, one of `BASES`."""
        self._require(name)
        (n, m), q = self.shape, self.rank
        return {
            "column": q * m,
            "row": q * n,
            "core": q * q,
            "tangent": q * (n + m - q),
            "outer": q,
            "symmetric": n * (n + 1) // 2,
        }[name]

    def chance(self, name: str) -> float:
        """Expected alignment of a uniformly random direction, k/d."""
        return self.k_dim(name) / math.prod(self.shape)

    def project(self, name: str, stack: Tensor) -> Tensor:
        """Orthogonal projection of k directions per problem, without forming a d×d projector.

        Args:
            name: one of `BASES`.
            stack: (B, d, k), or (B, n, m, k).

        Returns:
            The projected stack, in the shape it came in.

        Raises:
            ValueError: unknown basis, `symmetric` of matrices not square, or a stack of another size.
        """
        self._require(name)
        n, m = self.shape
        if tuple(stack.shape[1:-1]) not in {(n * m,), (n, m)}:
            raise ValueError(
                f"directions must have shape (B, {n * m}, k) or (B, {n}, {m}, k), found {tuple(stack.shape)}"
            )
        return getattr(self, f"_{name}")(stack.reshape(len(stack), n, m, -1)).reshape(stack.shape)

    def alignment(self, name: str, vectors: Tensor) -> Tensor:
        """Share of an m-dimensional eigenspace that lies in a basis, ‖PV‖_F²/m.

        Args:
            name: one of `BASES`.
            vectors: V, (B, d, m), orthonormal columns.

        Returns:
            (B,) in [0, 1]; k/d by chance. Its null is `beta_band` for m = 1 and `haar_deviation` for m ≥ 1.
        """
        return self.project(name, vectors).square().sum((1, 2)) / vectors.shape[-1]

    def curvature_share(self, name: str, hessian: Tensor) -> Tensor:
        """Share of the total curvature that lies in a basis, tr(PH)/tr(H): needs no eigenvectors.

        Args:
            name: one of `BASES`.
            hessian: H, (B, d, d).

        Returns:
            (B,); k/d for H ∝ I, in [0, 1] for definite H only; NaN where tr(H) = 0.
        """
        trace = _trace(hessian)
        return _trace(self.project(name, hessian)) / trace.where(trace != 0, torch.nan)

    def _require(self, name: str) -> None:
        if name not in BASES:
            raise ValueError(f"unknown basis {name!r}: use one of {', '.join(BASES)}")
        n, m = self.shape
        if name == "symmetric" and n != m:
            raise ValueError(f"basis 'symmetric' needs square matrices, found {n}×{m}: use another basis")

    def _column(self, Z: Tensor) -> Tensor:
        flat = Z.flatten(2)
        return (self.U @ (self.U.mT @ flat)).reshape(Z.shape)

    def _row(self, Z: Tensor) -> Tensor:
        V = self.V.unsqueeze(1)
        return V @ (V.mT @ Z)

    def _core(self, Z: Tensor) -> Tensor:
        return self._row(self._column(Z))

    def _tangent(self, Z: Tensor) -> Tensor:
        column = self._column(Z)
        return column + self._row(Z - column)

    def _outer(self, Z: Tensor) -> Tensor:
        products = torch.einsum("bnq,bmq->bnmq", self.U, self.V).flatten(1, 2)
        return (products @ (products.mT @ Z.flatten(1, 2))).reshape(Z.shape)

    def _symmetric(self, Z: Tensor) -> Tensor:
        return (Z + Z.transpose(1, 2)) / 2


def beta_band(k: int, d: int, level: float = 0.95) -> tuple[float, float]:
    """Central interval of the alignment of one uniformly random direction with a k-dimensional subspace.

    Args:
        k: dimension of the subspace, 0 … d.
        d: dimension of the space.
        level: probability inside the interval.

    Returns:
        Lower and upper end; the alignment follows Beta(k/2, (d−k)/2).
    """
    if k in (0, d):
        return k / d, k / d
    low, high = betaincinv(k / 2, (d - k) / 2, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def haar_deviation(k: int, d: int, m: int) -> float:
    """Standard deviation of the alignment of a uniformly random m-space with a k-dimensional subspace.

    The mean is k/d and the variance 2k(d−m)(d−k) / (m d²(d−1)(d+2)).

    Args:
        k: dimension of the subspace, 0 … d.
        d: dimension of the space.
        m: dimension of the random space, 1 … d.

    Source:
        Second moments of Haar projectors, e.g. Collins & Śniady 2006; at m = 1 the variance of
        Beta(k/2, (d−k)/2).
    """
    if d == 1:
        return 0.0
    return math.sqrt(2 * k * (d - m) * (d - k) / (m * d**2 * (d - 1) * (d + 2)))


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
