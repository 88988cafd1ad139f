"""Displacements of exactly known Frobenius norm of a matrix, seen from its point of rank r.

Four arms at one norm separate what a correlation cannot: how an energy answers to a change of the matrix
inside its subspaces (core), of one subspace (column, row) and of the rank (normal).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.geometry.fixed_rank import BLOCKS, FixedRankPoint
from iredinterp.linalg import principal_angles, unit_matrices

ARMS = BLOCKS

SWAP_TOLERANCE = 1e-6  # radians
RADIUS_TOLERANCE = 1e-9  # relative
RETRACTION_STEPS = 60  # radii up to ‖Y‖_F took Gaussian 20×20 matrices of rank 1 to 10 at most 31


@dataclass(frozen=True)
class Retraction:
    """Matrices of rank r near B matrices Y, and how far from them they are.

    Attributes:
        matrix: Y′, (B, n, m), of rank at most r; NaN where Y, the direction or the radius is not finite
            or the direction is zero.
        distance: ‖Y′ − Y‖_F as achieved, (B,).
        converged: (B,) bool, the distance is the radius asked for, to a relative 1e-9.
    """

    matrix: Tensor
    distance: Tensor
    converged: Tensor


def arm_directions(point: FixedRankPoint, noise: Tensor) -> dict[str, Tensor]:
    """One direction of unit norm in each block of the tangent and normal space at a point of rank r.

    The straight line Y + δB is a displacement of norm δ in every arm, no retraction needed. From Y of rank r
    the first three arms keep the rank, each sharing a factor with Y: core changes singular values and mixes
    inside both subspaces, column moves the column space only, row the row space only. Normal adds to the
    rank and leaves the leading subspaces where they are while δσ₁(B) < σ_r.

    Args:
        point: B points.
        noise: (B, n, m). Standard normal entries give a direction uniform on the unit sphere of its block.

    Returns:
        For each of `ARMS` B, (B, n, m) in float64, ‖B‖_F = 1; NaN where the point has no gap or the noise
        is not finite. The four are orthogonal to each other.

    Raises:
        ConfigError: noise of another shape than the point.

    Source:
        Vandereycken 2013 for the blocks.
    """
    return {arm: _unit_in(point, arm, noise) for arm in ARMS}


def arm_stack(point: FixedRankPoint, noise: Tensor) -> Tensor:
    """Several directions per arm, see `arm_directions`.

    Args:
        point: B points.
        noise: (B, draws, n, m).

    Returns:
        (B, arms, draws, n, m), in the order of `ARMS`; NaN as there.

    Raises:
        ConfigError: as `arm_directions`.
    """
    draws = [torch.stack([*arm_directions(point, each).values()], dim=1) for each in noise.unbind(1)]
    return torch.stack(draws, dim=2)


def rank_one_normal(point: FixedRankPoint, noise: Tensor) -> Tensor:
    """A direction abᵀ of unit norm in the normal block: Y + δabᵀ has rank r + 1 where Y has rank r.

    a and b are the leading singular vectors of the normal block of the noise; of standard normal noise they
    are uniform on the unit spheres of the complements and independent but for their common sign. Once
    δ > σ_r the new direction replaces the last one of each leading subspace.

    Args:
        point: B points.
        noise: (B, n, m), standard normal.

    Returns:
        (B, n, m) in float64; NaN where the point has no gap or the noise is not finite.

    Raises:
        ConfigError: noise of another shape than the point.
    """
    leading = FixedRankPoint.from_matrix(_unit_in(point, "normal", noise), 1)
    return _unit_in(point, "normal", leading.matrix())


def retracted(Y: Tensor, rank: int, direction: Tensor, radius: Tensor | float) -> Retraction:
    """Rank-preserving displacement of a given norm along any tangent direction.

    Y′ is the best approximation of rank r to Y + sξ, a retraction of second order: ‖Y′ − Y‖_F differs from
    s by 0.4 % to 8 % for radii of 0.1‖Y‖ to 0.3‖Y‖. The step is therefore solved for, s ← s·radius/‖Y′ − Y‖.
    No step may reach the radius, because Y′ jumps where σ_r = σ_{r+1} of Y + sξ, because ξ is not tangent or
    because Y is further than that from every matrix of rank r: `converged` says so, and the last try is
    returned. A direction inside one arm needs none of this, see `arm_directions`.

    Args:
        Y: (B, n, m), of rank r.
        rank: r, 1 … min(n, m) − 1.
        direction: ξ, (B, n, m), tangent at Y to the matrices of rank r; its length does not matter.
        radius: (B,) or a number, positive, in the unit of Y.

    Returns:
        Displaced matrices (B, n, m), and where the radius was reached.

    Raises:
        ConfigError: Y and direction differ in shape, a radius is not positive, or no such rank.

    Source:
        Absil & Malick 2012 for the retraction.
    """
    if Y.shape != direction.shape:
        raise ConfigError(
            f"direction must have the shape of Y, {tuple(Y.shape)}, found {tuple(direction.shape)}"
        )
    Y, direction = Y.double(), unit_matrices(direction.double())
    radius = torch.as_tensor(radius, dtype=Y.dtype, device=Y.device).expand(len(Y))
    if (radius <= 0).any():
        raise ConfigError(f"radius must be positive, found {radius.min().item():g}")
    step = radius
    for _ in range(RETRACTION_STEPS):
        matrix = FixedRankPoint.from_matrix(Y + step[:, None, None] * direction, rank).matrix()
        distance = torch.linalg.matrix_norm(matrix - Y)
        converged = (distance - radius).abs() <= RADIUS_TOLERANCE * radius
        if (converged | distance.isnan()).all():
            break
        # Capped, or a direction that leaves Y′ at Y would send the step to infinity.
        step = torch.where(converged, step, step * (radius / distance).clamp(max=10))
    return Retraction(matrix, distance, converged)


def swapped_directions(U: Tensor, V: Tensor) -> Tensor:
    """How many directions of a leading subspace a perturbation in the normal block exchanged for others.

    In the other blocks singular values of a generic matrix do not cross, and a subspace turns by less.

    Args:
        U: (B, n, k), orthonormal columns: the subspace before.
        V: (B, n, k), orthonormal columns: the subspace after.

    Returns:
        (B,) integers 0 … k, the number of principal angles within 1e-6 of π/2.

    Raises:
        ConfigError: subspaces of different dimensions.
    """
    if U.shape[-2:] != V.shape[-2:]:
        raise ConfigError(
            f"subspaces must have the same n and k, found {tuple(U.shape[-2:])} and {tuple(V.shape[-2:])}"
        )
    return (principal_angles(U, V) > math.pi / 2 - SWAP_TOLERANCE).sum(-1)


def _unit_in(point: FixedRankPoint, block: str, Z: Tensor) -> Tensor:
    # Twice: where the block holds little of Z, the rounding of Z would be left outside the block.
    part = unit_matrices(point.block(block, point.block(block, Z)))
    return part.where(point.defined[:, None, None], torch.nan)
