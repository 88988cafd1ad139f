"""Matrices of rank r as a manifold: tangent and normal space, gradient and Hessian of functions on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.geometry.nulls import TangentNormal, compare_with_chance
from iredinterp.linalg import finite_rows, relative_rounding

BLOCKS = ("core", "column", "row", "normal")


@dataclass(frozen=True)
class FixedRankPoint:
    """A batch of points Y_r = U diag(s) Vᵀ on the manifold of n×m matrices of rank r.

    With P_U = UUᵀ and P_V = VVᵀ, every matrix Z is the sum of four orthogonal blocks. The first three make
    up the tangent space T at Y_r, the last is the normal space N::

        core      P_U Z P_V              r²             keeps both subspaces of Y_r
        column    (I−P_U) Z P_V          (n−r)r         turns the column space
        row       P_U Z (I−P_V)          r(m−r)         turns the row space
        normal    (I−P_U) Z (I−P_V)      (n−r)(m−r)     raises the rank

    A direction in coordinates is the row-major flattening of a matrix.

    Attributes:
        U: (B, n, r), orthonormal columns, in the order of s.
        s: (B, r), singular values, descending.
        V: (B, m, r), orthonormal columns, in the order of s.
        gap: (B,), (σ_r − σ_{r+1})/‖Y‖_F of the matrix Y it came from; 0 where it does not exceed rounding
            (the subspaces are arbitrary), NaN where Y is zero or not finite.
        distance: (B,), ‖Y − Y_r‖_F/‖Y‖_F; NaN where the gap is.

    Source:
        Vandereycken 2013 for the manifold; Absil, Mahony & Trumpf 2013 for its Weingarten map.
    """

    U: Tensor
    s: Tensor
    V: Tensor
    gap: Tensor
    distance: Tensor

    @classmethod
    def from_matrix(cls, Y: Tensor, rank: int) -> FixedRankPoint:
        """The nearest matrices of rank r, by truncated singular value decomposition in float64.

        Args:
            Y: (B, n, m); a row that is zero or not finite gets arbitrary orthonormal U and V.
            rank: r, 1 … min(n, m) − 1.

        Raises:
            ConfigError: no such rank, or Y is not a batch of matrices.

        Source:
            Eckart & Young 1936.
        """
        if Y.ndim != 3:
            raise ConfigError(f"Y must be a batch of matrices (B, n, m), found shape {tuple(Y.shape)}")
        most = min(Y.shape[-2:]) - 1
        if not 1 <= rank <= most:
            raise ConfigError(
                f"rank must lie in 1 … min(n, m) − 1 = {most}, found {rank}: matrices of full rank have no "
                "normal space"
            )
        clean, finite = finite_rows(Y.double())
        U, s, Vh = torch.linalg.svd(clean, full_matrices=False)
        s = s.where(finite.unsqueeze(-1), torch.nan)
        relative = s / s[:, :1]
        size = relative.norm(dim=-1)
        gap = (relative[:, rank - 1] - relative[:, rank]) / size
        gap = gap.masked_fill(gap <= relative_rounding(Y), 0)
        distance = relative[:, rank:].norm(dim=-1) / size
        return cls(U[..., :rank], s[:, :rank], Vh.mT[..., :rank], gap, distance)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m) of the matrices."""
        return self.U.shape[-2], self.V.shape[-2]

    @property
    def rank(self) -> int:
        """Rank r."""
        return self.U.shape[-1]

    @property
    def block_dims(self) -> dict[str, int]:
        """Dimension of each block, in the order of `BLOCKS`."""
        (n, m), r = self.shape, self.rank
        return {"core": r * r, "column": (n - r) * r, "row": r * (m - r), "normal": (n - r) * (m - r)}

    @property
    def dim_tangent(self) -> int:
        """Dimension of the manifold, r(n+m−r)."""
        return self.rank * (sum(self.shape) - self.rank)

    @property
    def dim_normal(self) -> int:
        """Its codimension, (n−r)(m−r)."""
        return self.block_dims["normal"]

    @property
    def defined(self) -> Tensor:
        """Where the subspaces are those of Y, (B,), boolean: its gap exceeds rounding."""
        return self.gap > 0

    def matrix(self) -> Tensor:
        """Y_r, (B, n, m)."""
        return self.U * self.s.unsqueeze(-2) @ self.V.mT

    def block(self, name: str, Z: Tensor) -> Tensor:
        """Orthogonal projection of Z, (B, n, m), onto a block, one of `BLOCKS`.

        Raises:
            ConfigError: unknown block, or Z of another shape.
        """
        if name not in BLOCKS:
            raise ConfigError(f"unknown block {name!r}: use one of {', '.join(BLOCKS)}")
        Z = self._checked(Z)
        inside = self.U @ (self.U.mT @ Z)
        part = inside if name in ("core", "row") else Z - inside
        inside = (part @ self.V) @ self.V.mT
        return inside if name in ("core", "column") else part - inside

    def project_tangent(self, Z: Tensor) -> Tensor:
        """P_T Z = P_U Z + (I−P_U) Z P_V, (B, n, m)."""
        Z = self._checked(Z)
        inside = self.U @ (self.U.mT @ Z)
        return inside + ((Z - inside) @ self.V) @ self.V.mT

    def project_normal(self, Z: Tensor) -> Tensor:
        """P_N Z = (I−P_U) Z (I−P_V), (B, n, m)."""
        return self.block("normal", Z)

    def block_squares(self, Z: Tensor) -> Tensor:
        """‖·‖_F² of Z, (B, n, m), in each block: (B, 4) in the order of `BLOCKS`.

        Every block is summed from its own residual: differences of squares would lose a small block next
        to a large one.
        """
        Z = self._checked(Z)
        left, right = self.U.mT @ Z, Z @ self.V
        core = left @ self.V
        column, row = right - self.U @ core, left - core @ self.V.mT
        normal = Z - self.U @ left - column @ self.V.mT
        return torch.stack([part.square().sum((-2, -1)) for part in (core, column, row, normal)], dim=-1)

    def tangent_basis(self) -> Tensor:
        """Orthonormal basis of T, (B, nm, dim_tangent): that of core, of column, then of row."""
        U, V, outside_U, outside_V = self.U, self.V, _complement(self.U), _complement(self.V)
        return torch.cat([_products(U, V), _products(outside_U, V), _products(U, outside_V)], dim=-1)

    def normal_basis(self) -> Tensor:
        """Orthonormal basis of N, (B, nm, dim_normal)."""
        return _products(_complement(self.U), _complement(self.V))

    def riemannian_gradient(self, G: Tensor) -> Tensor:
        """P_T G, (B, n, m), the gradient on the manifold of a function with gradient G among all matrices.

        NaN where the point is not defined.
        """
        return self._where_defined(self.project_tangent(G))

    def weingarten(self, G: Tensor, xi: Tensor) -> Tensor:
        """What the bending of the manifold adds to the Hessian of a function with gradient G.

        With ξ = UMVᵀ + U_pVᵀ + UV_pᵀ in T and D = U S⁻¹ Vᵀ:

            (I−P_U) G V_p S⁻¹ Vᵀ + U S⁻¹ U_pᵀ G (I−P_V)  =  G_N ξᵀ D + D ξᵀ G_N.

        Args:
            G: (B, n, m).
            xi: tangent direction ξ, (B, n, m); a part of it in N does not count.

        Returns:
            (B, n, m), in T; NaN where the point is not defined.

        Source:
            Absil, Mahony & Trumpf 2013, section 6; Vandereycken 2013.
        """
        return self._bend(G, self._checked(xi).unsqueeze(1)).squeeze(1)

    def weingarten_spectrum(self, G: Tensor) -> Tensor:
        """Eigenvalues of ξ ↦ `weingarten(G, ξ)`: ±σ_i(G_N)/σ_j(Y_r) for i ≤ min(n, m) − r, and zeros.

        Returns:
            (B, dim_tangent), ascending; NaN where the point is not defined or G is not finite.
        """
        count = min(self.shape) - self.rank
        normal = _singular_values(self.project_normal(G))[:, :count]
        bends = (normal.unsqueeze(-1) / self._resolved_s().unsqueeze(-2)).flatten(1)
        flat = bends.new_zeros(len(bends), self.dim_tangent - 2 * bends.shape[-1])
        undefined = bends.isnan().any(-1, keepdim=True)
        spectrum = torch.cat([-bends, flat, bends], dim=-1).sort(-1).values
        return spectrum.masked_fill(undefined, torch.nan)

    def block_traces(self, H: Tensor) -> Tensor:
        """Total curvature tr(P H) in each block.

        Args:
            H: (B, nm, nm).

        Returns:
            (B, 4), in the order of `BLOCKS`.

        Raises:
            ConfigError: H of another shape.
        """
        H = self._checked_hessian(H).unflatten(-1, self.shape).unflatten(1, self.shape)
        (inside_U, outside_U), (inside_V, outside_V) = _projectors(self.U), _projectors(self.V)
        kept, turned = (torch.einsum("bik,bijkl->bjl", P, H) for P in (inside_U, outside_U))
        pairs = ((kept, inside_V), (turned, inside_V), (kept, outside_V), (turned, outside_V))
        return torch.stack([(half * P).sum((-2, -1)) for half, P in pairs], dim=-1)

    def curvature_ratio(self, H: Tensor) -> Tensor:
        """Mean curvature normal to the manifold over that along it, (tr P_N H/dim N) / (tr P_T H/dim T).

        Args:
            H: (B, nm, nm); the ratio reads as one of curvatures where H is positive semidefinite.

        Returns:
            (B,): 1 for H ∝ I; NaN where the point is not defined or H is not finite.

        Raises:
            ConfigError: H of another shape.
        """
        traces = self.block_traces(H)
        ratio = (traces[:, 3] / self.dim_normal) / (traces[:, :3].sum(-1) / self.dim_tangent)
        return ratio.where(self.defined, torch.nan)

    def projected_hessian(self, H: Tensor) -> Tensor:
        """P_T H P_T in the basis of `tangent_basis`.

        Args:
            H: (B, nm, nm).

        Returns:
            (B, dim_tangent, dim_tangent), symmetrised; NaN where the point is not defined.

        Raises:
            ConfigError: H of another shape.
        """
        T, H = self.tangent_basis(), self._checked_hessian(H)
        return self._where_defined(_symmetric_part(T.mT @ H @ T))

    def riemannian_hessian(self, H: Tensor, G: Tensor) -> Tensor:
        """Hessian on the manifold, ξ ↦ P_T(H[ξ]) + `weingarten(G, ξ)`, in the basis of `tangent_basis`.

        The signs of its eigenvalues depend on the choice of metric unless P_T G = 0.

        Args:
            H: Hessian in the space of matrices, (B, nm, nm).
            G: gradient there, (B, n, m).

        Returns:
            (B, dim_tangent, dim_tangent), symmetrised; NaN where the point is not defined.

        Raises:
            ConfigError: H or G of another shape.

        Source:
            Absil, Mahony & Trumpf 2013; Vandereycken 2013.
        """
        T, H = self.tangent_basis(), self._checked_hessian(H)
        bend = self._bend(G, T.mT.unflatten(-1, self.shape))
        return _symmetric_part(T.mT @ (H @ T + bend.flatten(2).mT))

    def chi(self, H: Tensor, G: Tensor) -> Tensor:
        """Largest bend over the largest curvature of the function, σ₁(G_N)/(σ_r(Y_r) ‖P_T H P_T‖₂).

        Far above 1, the Riemannian Hessian shows the manifold (a small σ_r) and not the function.

        Args:
            H: (B, nm, nm).
            G: (B, n, m).

        Returns:
            (B,); NaN where the point is not defined or H or G is not finite.
        """
        projected, finite = finite_rows(self.projected_hessian(H))
        curvature = torch.linalg.eigvalsh(projected).abs().amax(-1).where(finite, torch.nan)
        normal = _singular_values(self.project_normal(G))[:, 0]
        return normal / (self._resolved_s()[:, -1] * curvature)

    def _where_defined(self, matrices: Tensor) -> Tensor:
        return matrices.where(self.defined[:, None, None], torch.nan)

    def _resolved_s(self) -> Tensor:
        return self.s.where(self.defined.unsqueeze(-1), torch.nan)

    def _bend(self, G: Tensor, xi: Tensor) -> Tensor:
        """`weingarten` for k directions per point, (B, k, n, m)."""
        normal = self.project_normal(G).unsqueeze(1)
        D = (self.U / self._resolved_s().unsqueeze(-2) @ self.V.mT).unsqueeze(1)
        return normal @ xi.mT @ D + D @ xi.mT @ normal

    def _checked(self, Z: Tensor) -> Tensor:
        expected = (len(self.U), *self.shape)
        if Z.shape != expected:
            raise ConfigError(f"expected matrices of shape {expected}, found {tuple(Z.shape)}")
        return Z.to(self.U.dtype)

    def _checked_hessian(self, H: Tensor) -> Tensor:
        d = math.prod(self.shape)
        expected = (len(self.U), d, d)
        if H.shape != expected:
            raise ConfigError(f"expected Hessians of shape {expected}, found {tuple(H.shape)}")
        return H.to(self.U.dtype)


def tangent_normal(G: Tensor, Y: Tensor, rank: int) -> TangentNormal:
    """How gradients divide between the tangent and the normal space of the matrices of rank r at Y_r.

    For the null that keeps the law of the gradients, pair G with the Y of other problems: roll the batch.

    Args:
        G: (B, n, m).
        Y: (B, n, m), truncated to rank r.
        rank: r, 1 … min(n, m) − 1.

    Returns:
        Shares in the order of `BLOCKS`; `gap` and `distance` are those of `FixedRankPoint`.

    Raises:
        ConfigError: no such rank, or shapes that do not fit.

    Source:
        Tangent space of the matrices of rank r: Vandereycken 2013. F(dim N, dim T) is the law for an
        isotropic G.
    """
    point = FixedRankPoint.from_matrix(Y, rank)
    return compare_with_chance(
        G,
        point.matrix(),
        point.block_squares,
        point.block_dims,
        "normal",
        gap=point.gap,
        distance=point.distance,
        defined=point.defined,
    )


def _singular_values(matrices: Tensor) -> Tensor:
    clean, finite = finite_rows(matrices)
    return torch.linalg.svdvals(clean).where(finite.unsqueeze(-1), torch.nan)


def _symmetric_part(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2


def _projectors(U: Tensor) -> tuple[Tensor, Tensor]:
    inside = U @ U.mT
    return inside, torch.eye(U.shape[-2]).to(U) - inside


def _complement(U: Tensor) -> Tensor:
    return torch.linalg.qr(U, mode="complete").Q[..., U.shape[-1] :]


def _products(A: Tensor, B: Tensor) -> Tensor:
    """Row-major flattened a_i b_jᵀ as columns, j running fastest."""
    return torch.einsum("bni,bmj->bnmij", A, B).flatten(3).flatten(1, 2)
