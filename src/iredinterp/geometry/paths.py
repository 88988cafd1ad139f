"""Paths between two matrices of rank r, and energies along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.geometry.fixed_rank import FixedRankPoint
from iredinterp.geometry.subspace import grassmann_exp, grassmann_log
from iredinterp.linalg import finite_rows

# Relative; rounding ε parts a double real eigenvalue into a pair with imaginary parts of √ε.
REAL_TOLERANCE = 1e-7


@dataclass(frozen=True)
class SubspacePath:
    """B paths that move the column and the row space along Grassmann geodesics.

    Attributes:
        matrices: Y(t), (B, T, n, m), float64; NaN where an end has no gap.
        gap: (B,), the smaller (σ_r − σ_{r+1})/‖Y‖_F of the two ends; NaN where undefined.
        cut_locus: (B,) bool, a principal angle between the column or the row spaces is π/2: the geodesic is
            one of several, all as short.
        loses_rank: (B,) bool, the rank drops somewhere strictly between the ends, at a sampled time or not.
    """

    matrices: Tensor
    gap: Tensor
    cut_locus: Tensor
    loses_rank: Tensor


def straight_path(Y0: Tensor, Y1: Tensor, times: Tensor | Sequence[float]) -> Tensor:
    """(1−t) Y0 + t Y1, of rank up to 2r inside between matrices of rank r.

    Args:
        Y0: (B, n, m), at t = 0.
        Y1: (B, n, m), at t = 1.
        times: (T,), from 0 to 1.

    Returns:
        (B, T, n, m) in float64; Y0 and Y1 themselves at t = 0 and 1.

    Raises:
        ConfigError: the ends differ in shape, or times is not a vector.
    """
    Y0, Y1, times = _ends_and_times(Y0, Y1, times)
    return torch.lerp(Y0.unsqueeze(1), Y1.unsqueeze(1), times[:, None, None])


def subspace_geodesic_path(
    Y0: Tensor, Y1: Tensor, rank: int, times: Tensor | Sequence[float]
) -> SubspacePath:
    """Y(t) = U(t) S(t) V(t)ᵀ along the shortest motion of the column and the row space.

    U(t) and V(t) are the horizontal lifts of the two Grassmann geodesics and S(t) runs straight from
    U(0)ᵀ Y0 V(0) to U(1)ᵀ Y1 V(1), so that half way in t is half way in both subspace distances. The ends
    are Y0 and Y1 truncated to rank r. Between equal column and equal row spaces the path is the straight
    line.

    It is not a geodesic of the manifold of rank-r matrices, which has no closed form in the embedded metric;
    report energies on it next to those on `straight_path`. It has rank r except where S(t) is singular, as
    it is somewhere whenever det S(0) and det S(1) differ in sign, so for half of independent random pairs at
    least: `loses_rank` tells.

    Args:
        Y0: (B, n, m), at t = 0.
        Y1: (B, n, m), at t = 1.
        rank: r, 1 … min(n, m) − 1.
        times: (T,), from 0 to 1.

    Returns:
        The matrices, (B, T, n, m), and what could make the path arbitrary.

    Raises:
        ConfigError: no such rank, the ends differ in shape, or times is not a vector.

    Source:
        Edelman, Arias & Smith 1998, theorem 2.3, for the lifts; Bendokat, Zimmermann & Absil 2024,
        section 5.3, for the logarithm.
    """
    Y0, Y1, times = _ends_and_times(Y0, Y1, times)
    start, end = FixedRankPoint.from_matrix(Y0, rank), FixedRankPoint.from_matrix(Y1, rank)
    column, row = grassmann_log(start.U, end.U), grassmann_log(start.V, end.V)
    U1, V1 = grassmann_exp(start.U, column.direction), grassmann_exp(start.V, row.direction)
    S0, S1 = start.s.diag_embed(), U1.mT @ end.matrix() @ V1
    U, V = _lift(start.U, column.direction, times), _lift(start.V, row.direction, times)
    matrices = U @ straight_path(S0, S1, times) @ V.mT
    defined = start.defined & end.defined
    return SubspacePath(
        matrices.where(defined[:, None, None, None], torch.nan),
        torch.minimum(start.gap, end.gap),
        defined & (column.cut_locus | row.cut_locus),
        defined & _singular_between(S0, S1),
    )


def barrier(energies: Tensor) -> Tensor:
    """How far an energy rises along a path above the higher of its ends.

    Only differences of energies at one (x, t) are comparable: all energies of a row must share both.

    Args:
        energies: (B, T) at successive points of B paths, ends included.

    Returns:
        (B,), max over the path − max of its two ends, at least 0; a lower bound of the barrier along the
        continuous path, and an upper bound of none: other paths may be lower. NaN where an energy is.

    Raises:
        ConfigError: energies is not (B, T) with T ≥ 2.
    """
    if energies.ndim != 2 or energies.shape[1] < 2:
        raise ConfigError(f"energies must be (B, T) with both ends, T ≥ 2, found {tuple(energies.shape)}")
    return energies.amax(1) - torch.maximum(energies[:, 0], energies[:, -1])


def path_length(path: Tensor) -> Tensor:
    """Frobenius length of the polygon through the points of a path.

    Args:
        path: (B, T, n, m).

    Returns:
        (B,). Over ‖Y1 − Y0‖_F it is 1 for a straight line and more for any other path.
    """
    return torch.linalg.matrix_norm(path.diff(dim=1)).sum(1)


def _ends_and_times(Y0: Tensor, Y1: Tensor, times: Tensor | Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    if Y0.ndim != 3 or Y0.shape != Y1.shape:
        raise ConfigError(
            f"both ends must be (B, n, m) of one shape, found {tuple(Y0.shape)} and {tuple(Y1.shape)}"
        )
    times = torch.as_tensor(times, dtype=torch.float64, device=Y0.device)
    if times.ndim != 1:
        raise ConfigError(f"times must be a vector (T,), found shape {tuple(times.shape)}")
    return Y0.double(), Y1.double(), times


def _lift(U: Tensor, direction: Tensor, times: Tensor) -> Tensor:
    return grassmann_exp(U.unsqueeze(1), times[:, None, None] * direction.unsqueeze(1))


def _singular_between(S0: Tensor, S1: Tensor) -> Tensor:
    # (1−t)S0 + tS1 is singular at 0 < t < 1 where S0⁻¹S1 has the eigenvalue −(1−t)/t.
    quotient, finite = finite_rows(torch.linalg.solve_ex(S0, S1).result)
    eigenvalues = torch.linalg.eigvals(quotient)
    negative = (eigenvalues.imag.abs() <= REAL_TOLERANCE * eigenvalues.abs()) & (eigenvalues.real < 0)
    return finite & negative.any(-1)
