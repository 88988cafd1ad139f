"""Square matrices of full rank: leaving symmetry, turning eigenvectors, changing eigenvalues, SPD distance.

Matrices of full rank are an open set, all of whose directions are tangent. What divides them is symmetry and
the spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.geometry.nulls import TangentNormal, compare_with_chance
from iredinterp.linalg import finite_rows, relative_rounding, unit_matrices

SYMMETRIC_BLOCKS = ("skew", "isospectral", "spectral")


@dataclass(frozen=True)
class SymmetricSplit:
    """Orthogonal parts of matrices G at symmetric matrices Y = QΛQᵀ.

    The symmetric matrices are a linear subspace with normal space `skew`; in it `isospectral` is tangent to
    the matrices with the eigenvalues of Y and `spectral` is normal to them.

    Attributes:
        skew: (G − Gᵀ)/2, (B, n, n): leaves symmetry. Does not depend on Y.
        isospectral: off-diagonal part of Qᵀ(G + Gᵀ)Q/2, (B, n, n): turns eigenvectors.
        spectral: its diagonal part, (B, n, n): changes eigenvalues.
        gap: (B,), smallest difference of two eigenvalues over ‖Y‖_F; 0 where it does not exceed rounding, NaN
            where Y is zero or not finite. There `isospectral` and `spectral` are NaN.
        distance: (B,), ‖Y − Yᵀ‖_F/2‖Y‖_F of the given Y; its symmetric part is the point of the split.
    """

    skew: Tensor
    isospectral: Tensor
    spectral: Tensor
    gap: Tensor
    distance: Tensor

    @property
    def block_dims(self) -> dict[str, int]:
        """Dimension of each block, in the order of `SYMMETRIC_BLOCKS`."""
        return symmetric_block_dims(self.skew.shape[-1])

    @property
    def block_squares(self) -> Tensor:
        """‖·‖_F² of each block, (B, 3), in the order of `SYMMETRIC_BLOCKS`."""
        return _squares((self.skew, self.isospectral, self.spectral))


def symmetric_block_dims(n: int) -> dict[str, int]:
    """Dimension of each of the `SYMMETRIC_BLOCKS` of n×n matrices."""
    pairs = n * (n - 1) // 2
    return {"skew": pairs, "isospectral": pairs, "spectral": n}


def split_symmetric(G: Tensor, Y: Tensor) -> SymmetricSplit:
    """Split gradients at symmetric matrices into skew, isospectral and spectral part.

    Args:
        G: (B, n, n).
        Y: (B, n, n), replaced by its symmetric part.

    Returns:
        The three parts, (B, n, n) each, and the gap that separates the last two.

    Raises:
        ConfigError: G and Y are not batches of square matrices of one shape, or n = 1.
    """
    _check_square(G, Y)
    _, Q, gap, distance = _eigenvectors(Y)
    skew, isospectral, spectral = _blocks(G.double(), Q)
    resolved = (gap > 0)[:, None, None]
    return SymmetricSplit(
        skew,
        isospectral.where(resolved, torch.nan),
        spectral.where(resolved, torch.nan),
        gap,
        distance,
    )


def tangent_normal_symmetric(G: Tensor, Y: Tensor) -> TangentNormal:
    """How gradients divide between the symmetric matrices, tangent, and the skew ones, normal.

    Args:
        G: (B, n, n).
        Y: (B, n, n), replaced by its symmetric part.

    Returns:
        Shares in the order of `SYMMETRIC_BLOCKS`, of which only the first is given where two eigenvalues of Y
        coincide; `gap` and `distance` are those of `SymmetricSplit`. Undefined where Y is not finite.

    Raises:
        ConfigError: G and Y are not batches of square matrices of one shape, or n = 1.
    """
    _check_square(G, Y)
    point, Q, gap, distance = _eigenvectors(Y)
    result = compare_with_chance(
        G,
        point,
        lambda Z: _squares(_blocks(Z, Q)),
        symmetric_block_dims(Y.shape[-1]),
        "skew",
        gap=gap,
        distance=distance,
        defined=Y.isfinite().all(-1).all(-1),
    )
    shares = result.shares.clone()
    shares[~(gap > 0), 1:] = torch.nan
    return replace(result, shares=shares)


def split_singular_values(G: Tensor, Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split gradients at square matrices Y = USVᵀ by whether they change singular values.

    Args:
        G: (B, n, n).
        Y: (B, n, n).

    Returns:
        tangent: (B, n, n), off-diagonal part of UᵀGV, n(n−1) dimensions: tangent to the matrices W₁YW₂ with
            W₁ and W₂ orthogonal, which have the singular values of Y.
        normal: (B, n, n), its diagonal part, n dimensions: changes singular values.
        gap: (B,), smallest difference of two singular values over ‖Y‖_F; 0 where it does not exceed rounding,
            NaN where Y is zero or not finite. There both parts are NaN.

    Raises:
        ConfigError: G and Y are not batches of square matrices of one shape, or n = 1.
    """
    _check_square(G, Y)
    U, s, V = _svd(Y)
    gap = _smallest_gap(-s, Y)
    G = G.double().where((gap > 0)[:, None, None], torch.nan)
    normal = _with_diagonal_of(G, U, V)
    return G - normal, normal, gap


def condition_number_normal(Y: Tensor) -> Tensor:
    """Gradient of ln κ(Y), normal to the matrices of the condition number of Y: u₁v₁ᵀ/σ₁ − u_nv_nᵀ/σ_n.

    Args:
        Y: (B, n, n).

    Returns:
        (B, n, n); NaN where Y is singular, zero or not finite, or its largest or smallest singular value is
        not simple, all to rounding.

    Raises:
        ConfigError: Y is not a batch of square matrices, or n = 1.
    """
    _check_square(Y)
    U, s, V = _svd(Y)
    relative = s / s.norm(dim=-1, keepdim=True)
    steps = torch.stack(
        [relative[:, 0] - relative[:, 1], relative[:, -2] - relative[:, -1], relative[:, -1]], dim=-1
    )
    s = s.where((steps > relative_rounding(Y)).all(-1, keepdim=True), torch.nan)[:, None, None]
    largest, smallest = U[..., :1] @ V[..., :1].mT, U[..., -1:] @ V[..., -1:].mT
    return largest / s[..., 0] - smallest / s[..., -1]


def condition_number_share(G: Tensor, Y: Tensor) -> Tensor:
    """Part of ‖G‖² that changes the condition number of Y, cos²(G, ∇ ln κ).

    Args:
        G: (B, n, n).
        Y: (B, n, n).

    Returns:
        (B,) in [0, 1]; 1/n² on average for isotropic G. NaN where G is zero or not finite, or
        `condition_number_normal` is.

    Raises:
        ConfigError: G and Y are not batches of square matrices of one shape, or n = 1.
    """
    _check_square(G, Y)
    return (unit_matrices(G) * unit_matrices(condition_number_normal(Y))).sum((-2, -1)).square()


def affine_invariant_distance(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of symmetric positive definite matrices, ‖ln(A^{-1/2} B A^{-1/2})‖_F.

    It is the same for (WAWᵀ, WBWᵀ) with any invertible W, and for (A⁻¹, B⁻¹): between a proposed and the true
    inverse it is also the distance between the matrices they invert. What a network proposes is rarely
    symmetric: give its symmetric part.

    Args:
        A: (B, n, n).
        B: (B, n, n).

    Returns:
        distance: (B,); NaN where `spd` is False.
        spd: (B,), boolean: both matrices are finite, symmetric to half their digits and positive definite.

    Raises:
        ConfigError: A and B are not batches of square matrices of one shape, or n = 1.

    Source:
        Bhatia, Positive Definite Matrices, ch. 6; Pennec, Fillard & Ayache 2006.
    """
    _check_square(A, B)
    (A, L, first), (B, _, second) = _cholesky(A), _cholesky(B)
    spd = first & second
    identity = torch.eye(A.shape[-1]).to(A)
    L, B = (Z.where(spd[:, None, None], identity) for Z in (L, B))
    half = torch.linalg.solve_triangular(L, B, upper=False)
    ratio = torch.linalg.solve_triangular(L, half.mT, upper=False)
    eigenvalues = torch.linalg.eigvalsh((ratio + ratio.mT) / 2)
    spd = spd & (eigenvalues[:, 0] > 0)
    return eigenvalues.log().norm(dim=-1).where(spd, torch.nan), spd


def _check_square(*matrices: Tensor) -> None:
    shape = matrices[0].shape
    if len(shape) != 3 or shape[1] != shape[2] or shape[2] < 2 or any(Z.shape != shape for Z in matrices):
        found = " and ".join(str(tuple(Z.shape)) for Z in matrices)
        raise ConfigError(f"expected square matrices (B, n, n) with n ≥ 2, of one shape, found {found}")


def _eigenvectors(Y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Symmetric part of Y, its eigenvectors (arbitrary where Y is not finite), gap and distance."""
    clean, finite = finite_rows(Y.double())
    point = (clean + clean.mT) / 2
    eigenvalues, Q = torch.linalg.eigh(point)
    eigenvalues = eigenvalues.where(finite.unsqueeze(-1), torch.nan)
    relative = unit_matrices(Y)
    distance = (relative - relative.mT).norm(dim=(-2, -1)) / 2
    return point, Q, _smallest_gap(eigenvalues, Y), distance


def _blocks(Z: Tensor, Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    symmetric = (Z + Z.mT) / 2
    spectral = _with_diagonal_of(symmetric, Q, Q)
    return (Z - Z.mT) / 2, symmetric - spectral, spectral


def _with_diagonal_of(Z: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """U diag(UᵀZV) Vᵀ."""
    diagonal = (U * (Z @ V)).sum(-2, keepdim=True)
    return U * diagonal @ V.mT


def _squares(blocks: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([block.square().sum((-2, -1)) for block in blocks], dim=-1)


def _svd(Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    clean, finite = finite_rows(Y.double())
    U, s, Vh = torch.linalg.svd(clean)
    return U, s.where(finite.unsqueeze(-1), torch.nan), Vh.mT


def _smallest_gap(ascending: Tensor, Y: Tensor) -> Tensor:
    relative = ascending / ascending.abs().amax(-1, keepdim=True)
    gap = relative.diff(dim=-1).amin(-1) / relative.norm(dim=-1)
    return gap.masked_fill(gap <= relative_rounding(Y), 0)


def _cholesky(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Symmetric part of A, its Cholesky factor, and where A is symmetric and positive definite."""
    clean, finite = finite_rows(A.double())
    asymmetry = (clean - clean.mT).abs().amax((-2, -1))
    # A computed inverse is symmetric to κ·ε only.
    symmetric = asymmetry <= math.sqrt(torch.finfo(A.dtype).eps) * clean.abs().amax((-2, -1))
    point = (clean + clean.mT) / 2
    L, failed = torch.linalg.cholesky_ex(point)
    return point, L, finite & symmetric & (failed == 0)
