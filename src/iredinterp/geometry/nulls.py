"""How gradients divide between the tangent and the normal space of a manifold, next to pure chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import fdtr, fdtrc, fdtri
from torch import Tensor

from iredinterp.linalg import relative_rounding, unit_matrices


def f_band(dim_normal: int, dim_tangent: int, level: float = 0.95) -> tuple[float, float]:
    """Central interval of the normal-to-tangent ratio of an isotropic gradient.

    Args:
        dim_normal: dimension of the normal space, at least 1.
        dim_tangent: dimension of the tangent space, at least 1.
        level: probability inside the interval.

    Returns:
        Lower and upper end; the ratio follows F(dim_normal, dim_tangent).
    """
    low, high = fdtri(dim_normal, dim_tangent, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def f_p_value(ratio: Tensor, dim_normal: int, dim_tangent: int) -> Tensor:
    """Two-sided p-value of normal-to-tangent ratios, twice the smaller tail of F(dim_normal, dim_tangent).

    Args:
        ratio: (...), in [0, ∞].
        dim_normal: dimension of the normal space, at least 1.
        dim_tangent: dimension of the tangent space, at least 1.

    Returns:
        (...), NaN where the ratio is.
    """
    values = ratio.numpy(force=True)
    smaller = np.minimum(fdtr(dim_normal, dim_tangent, values), fdtrc(dim_normal, dim_tangent, values))
    return torch.as_tensor(2 * smaller).to(ratio)


@dataclass(frozen=True)
class TangentNormal:
    """Gradients split into orthogonal blocks, and the ratio of their normal to their tangent part.

    Everything is NaN where `defined` is False. The null is that of an isotropic gradient, whatever Y is. A
    gradient of low rank keeps the mean of the null but not its spread: compare with gradients of other
    problems at the same Y as well.

    Attributes:
        block_dims: dimension of each block, in the order of `shares`; divided by their sum, the null mean of
            the shares.
        shares: (B, blocks), part of ‖G‖² in each block; `iredinterp.bases.beta_band` is their null.
        ratio: F = (‖P_N G‖²/dim N) / (‖P_T G‖²/dim T), (B,): 1 says nothing, above 1 the gradient points
            away from the manifold.
        band: 95 % interval of F under the null, F(dim N, dim T).
        p_value: (B,), two-sided under the null.
        radial_cosine: cos(G, Y), (B,); Y, the point on the manifold, lies in its own tangent space.
        ratio_without_radial: (B,), F with the direction of Y taken out of T, whose dimension falls by one;
            F(dim N, dim T − 1) under the null. NaN where G is a multiple of Y.
        gap: (B,), what separates the blocks: where it vanishes they are arbitrary.
        distance: (B,), of the given matrix to the point on the manifold, over its norm.
        defined: (B,), boolean.
    """

    block_dims: dict[str, int]
    shares: Tensor
    ratio: Tensor
    band: tuple[float, float]
    p_value: Tensor
    radial_cosine: Tensor
    ratio_without_radial: Tensor
    gap: Tensor
    distance: Tensor
    defined: Tensor


def compare_with_chance(
    G: Tensor,
    Y: Tensor,
    block_squares: Callable[[Tensor], Tensor],
    block_dims: dict[str, int],
    normal: str,
    *,
    gap: Tensor,
    distance: Tensor,
    defined: Tensor,
) -> TangentNormal:
    """Shares, ratio and null of gradients at points whose orthogonal blocks are known.

    Args:
        G: gradients, (B, n, m).
        Y: points on the manifold, (B, n, m), each in its own tangent space.
        block_squares: Z (B, n, m) ↦ ‖·‖² by block, (B, blocks).
        block_dims: dimension of each block, in that order.
        normal: the block that is the normal space; the others make up the tangent space.
        gap: (B,), handed on.
        distance: (B,), handed on.
        defined: (B,), boolean: where the blocks are.

    Returns:
        Shares in the order of `block_dims`, the ratio and its null; NaN where not defined.

    Source:
        Cochran 1934: squared norms of an isotropic Gaussian in orthogonal subspaces are independent χ², so
        that their ratio per dimension is F(dim N, dim T).
    """
    is_normal = torch.tensor([name == normal for name in block_dims], device=G.device)
    dim_normal = block_dims[normal]
    dim_tangent = sum(block_dims.values()) - dim_normal

    tolerance = relative_rounding(G)
    radial, G = unit_matrices(Y), unit_matrices(G)
    defined = defined & G.isfinite().all(-1).all(-1)

    def ratio(squares: Tensor, dim_tangent: int) -> Tensor:
        outside, inside = squares[:, is_normal].sum(-1), squares[:, ~is_normal].sum(-1)
        return ((outside / dim_normal) / (inside / dim_tangent)).where(defined, torch.nan)

    squares = block_squares(G)
    along = (G * radial).sum((-2, -1))
    without_radial = block_squares(G - along[:, None, None] * radial)
    beside = without_radial.sum(-1, keepdim=True) > tolerance**2
    found = ratio(squares, dim_tangent)
    return TangentNormal(
        block_dims=block_dims,
        shares=(squares / squares.sum(-1, keepdim=True)).where(defined.unsqueeze(-1), torch.nan),
        ratio=found,
        band=f_band(dim_normal, dim_tangent),
        p_value=f_p_value(found, dim_normal, dim_tangent),
        radial_cosine=along.where(defined, torch.nan),
        ratio_without_radial=ratio(without_radial.where(beside, torch.nan), dim_tangent - 1),
        gap=gap,
        distance=distance,
        defined=defined,
    )
