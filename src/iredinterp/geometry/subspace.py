"""Points of the Grassmannian Gr(n, k), its distances, geodesics and parallel transport, in basis form.

A subspace is an n×k matrix of orthonormal columns, any one of the many that span it. Every function is
batched over leading axes, which broadcast, runs where its arguments live and computes in float64. float32
arguments are converted, but their columns are orthonormal to 1e-7 only, and smaller angles are lost: convert
before the decomposition that finds the basis, as `GrassmannPoints.from_matrix` does.

Lengths are arc lengths, ‖θ‖₂ of the principal angles: the metric of Edelman, Arias & Smith 1998. geomstats
measures projectors in the Frobenius norm, and its lengths are √2 times these.

A basis or tangent vector holding NaN or infinity gives NaN for that item and never fails a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.errors import ConfigError
from iredinterp.linalg import principal_angles

# Rounding to float32 moves Y by at most 6e-8 ‖Y‖, so a subspace with this gap by 0.06 rad at most (Wedin).
GAP_TOLERANCE = 1e-6
# So close to a right angle, rounding ε of the subspaces turns the shortest geodesic by more than √ε.
RIGHT_ANGLE_TOLERANCE = 1e-8


@dataclass(frozen=True)
class GrassmannPoints:
    """The leading left singular subspaces of B matrices, and whether they exist.

    Attributes:
        U: (B, n, k), orthonormal columns; arbitrary where `defined` is false.
        gap: (B,), (σ_k − σ_{k+1})/‖Y‖_F in [0, 1] of the matrices they came from; NaN where a matrix is zero
            or not finite.
        defined: (B,), whether the gap exceeds the tolerance: without a gap no subspace is singled out, and
            a perturbation ‖E‖_F ≪ gap·‖Y‖_F turns the subspace by about ‖E‖_F/(gap·‖Y‖_F).

    Source:
        Wedin 1972 for the perturbation bound.
    """

    U: Tensor
    gap: Tensor
    defined: Tensor

    @classmethod
    def from_matrix(cls, Y: Tensor, rank: int, tolerance: float = GAP_TOLERANCE) -> GrassmannPoints:
        """Leading left singular subspaces; give Y.mT for the row space.

        Args:
            Y: (B, n, m).
            rank: k, 1 … min(n − 1, m).
            tolerance: gaps at or below it leave the subspace undefined. The default is for matrices that were
                ever rounded to float32; for exact float64 data 1e-12 is enough.

        Raises:
            ConfigError: no such rank.
        """
        n, m = Y.shape[-2:]
        most = min(n - 1, m)
        if not 1 <= rank <= most:
            raise ConfigError(
                f"rank must lie in 1 … min(n − 1, m) = {most} for {n}×{m} matrices, found {rank}: "
                "Gr(n, 0) and Gr(n, n) are single points, so choose a rank between"
            )
        # Relative to the largest entry nothing overflows, and zero and infinite matrices become NaN.
        Y = Y.to(torch.float64)
        Y = Y / Y.abs().amax((-2, -1), keepdim=True)
        usable = Y.isfinite().all(-1).all(-1)
        U, singular_values, _ = torch.linalg.svd(Y.where(usable[..., None, None], 0), full_matrices=False)
        padded = pad(singular_values, (0, 1))
        # The norm of a matrix that is not usable is zero.
        gap = (padded[..., rank - 1] - padded[..., rank]) / singular_values.norm(dim=-1)
        return cls(U[..., :rank], gap, gap > tolerance)

    def projectors(self) -> Tensor:
        """UUᵀ, (B, n, n)."""
        return projector(self.U)


def haar_subspaces(count: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Independent uniformly random subspaces.

    Args:
        count: B of them.
        n: dimension of the space.
        k: dimension of the subspaces.
        generator: source of randomness; numbers are drawn on its device.

    Returns:
        (B, n, k) float64, orthonormal columns.

    Source:
        Chikuse 2003, Statistics on Special Manifolds: the span of a Gaussian matrix.
    """
    normal = torch.randn(count, n, k, generator=generator, device=generator.device, dtype=torch.float64)
    return torch.linalg.qr(normal).Q


def projector(U: Tensor) -> Tensor:
    """Orthogonal projector UUᵀ onto a subspace.

    Args:
        U: (..., n, k), orthonormal columns.

    Returns:
        (..., n, n).
    """
    (U,) = _double(U)
    return U @ U.mT


def subspace_basis(P: Tensor, k: int) -> Tensor:
    """Eigenvectors of the k largest eigenvalues: of an orthogonal projector of rank k, a basis of its range.

    Args:
        P: (..., n, n), symmetric; only the lower triangle is read.
        k: 0 … n.

    Returns:
        (..., n, k), orthonormal columns.
    """
    (P,) = _double(P)
    eigenvectors = torch.linalg.eigh(_finite(P)).eigenvectors
    return eigenvectors[..., P.shape[-1] - k :] + _nan_if_not_finite(P)[..., None, None]


def grassmann_distance(U: Tensor, V: Tensor) -> Tensor:
    """Length of the shortest geodesic, ‖θ‖₂, accurate to rounding from identical to orthogonal subspaces.

    Args:
        U: (..., n, k), orthonormal columns.
        V: (..., n, k), orthonormal columns.

    Returns:
        (...,) in [0, √min(k, n−k) π/2]; geomstats' is √2 times this.

    Raises:
        ConfigError: subspaces of different shapes.

    Source:
        Edelman, Arias & Smith 1998, section 4.3; `iredinterp.linalg.principal_angles`.
    """
    U, V = _pair(U, V)
    angles = principal_angles(_finite(U), _finite(V))
    return angles.norm(dim=-1) + _nan_if_not_finite(U) + _nan_if_not_finite(V)


def chordal_distance(U: Tensor, V: Tensor) -> Tensor:
    """Length of the sines, ‖sin θ‖₂ = ‖V − UUᵀV‖_F = ‖P_U − P_V‖_F/√2, which needs no decomposition.

    Args:
        U: (..., n, k), orthonormal columns.
        V: (..., n, k), orthonormal columns.

    Returns:
        (...,) in [0, √min(k, n−k)].

    Raises:
        ConfigError: subspaces of different shapes.

    Source:
        Ye & Lim 2016, table 2.
    """
    U, V = _pair(U, V)
    return torch.linalg.matrix_norm(_rejection(U, V))


def projection_distance(U: Tensor, V: Tensor) -> Tensor:
    """Sine of the largest principal angle, ‖P_U − P_V‖₂.

    Args:
        U: (..., n, k), orthonormal columns.
        V: (..., n, k), orthonormal columns.

    Returns:
        (...,) in [0, 1].

    Raises:
        ConfigError: subspaces of different shapes.

    Source:
        Ye & Lim 2016, table 2.
    """
    U, V = _pair(U, V)
    rejection = _rejection(U, V)
    return torch.linalg.matrix_norm(_finite(rejection), 2) + _nan_if_not_finite(rejection)


@dataclass(frozen=True)
class GrassmannLog:
    """Where a shortest geodesic from one subspace to another sets out.

    Attributes:
        direction: D, (..., n, k), horizontal (UᵀD = 0), ‖D‖_F the distance.
        cut_locus: (...,), whether a principal angle is right within the tolerance; the shortest geodesic is
            then not unique, and D belongs to one of them.
    """

    direction: Tensor
    cut_locus: Tensor

    @property
    def angles(self) -> Tensor:
        """Principal angles, the singular values of D, (..., k) ascending."""
        angles = torch.linalg.svdvals(_finite(self.direction)).flip(-1)
        return angles + _nan_if_not_finite(self.direction).unsqueeze(-1)


def grassmann_log(U: Tensor, V: Tensor, tolerance: float = RIGHT_ANGLE_TOLERANCE) -> GrassmannLog:
    """Initial velocity of a shortest geodesic from span U to span V.

    With the singular value decomposition VᵀU = A cos(θ) Rᵀ it is D = (V − UUᵀV) A (θ/sin θ) Rᵀ.

    Args:
        U: (..., n, k), orthonormal columns.
        V: (..., n, k), orthonormal columns.
        tolerance: angles within it of π/2 (in radians) count as right.

    Returns:
        The direction D, (..., n, k), and where the shortest geodesic is not unique.

    Raises:
        ConfigError: subspaces of different shapes.

    Source:
        Bendokat, Zimmermann & Absil 2024, algorithm 5.3. Its second decomposition is spared: with these A the
        columns of (V − UUᵀV)A are orthogonal and sin θ long. Where cosines coincide A is not unique, but D,
        a smooth function of VᵀU below π/2, does not depend on the choice.
    """
    velocity, angles, R = _shortest(*_pair(U, V))
    return GrassmannLog(velocity @ R.mT, angles[..., -1] >= math.pi / 2 - tolerance)


def grassmann_exp(U: Tensor, D: Tensor) -> Tensor:
    """The subspace that the geodesic from span U with velocity D reaches at time 1.

    Args:
        U: (..., n, k), orthonormal columns.
        D: (..., n, k), horizontal (UᵀD = 0).

    Returns:
        (..., n, k), orthonormal columns.

    Raises:
        ConfigError: U and D of different shapes.

    Source:
        Edelman, Arias & Smith 1998, theorem 2.3, as U cos √K + D (sin √K)/√K with K = DᵀD. Both functions of
        K are entire, so its eigenvalues need no relative accuracy.
    """
    U, D = _pair(U, D)
    angles, R = _principal_frame(D)
    return _sweep(U @ R, D @ R, angles, R, U.new_ones(1))[..., 0, :, :]


def grassmann_geodesic(U: Tensor, V: Tensor, times: Tensor | Sequence[float]) -> Tensor:
    """Points of a shortest geodesic from span U (time 0) to span V (time 1), run through at constant speed.

    Args:
        U: (..., n, k), orthonormal columns.
        V: (..., n, k), orthonormal columns.
        times: (T,), any real numbers.

    Returns:
        (..., T, n, k), orthonormal columns; U itself at time 0, another basis of span V at time 1.

    Raises:
        ConfigError: subspaces of different shapes.

    Source:
        Edelman, Arias & Smith 1998, theorem 2.3.
    """
    U, V = _pair(U, V)
    velocity, angles, R = _shortest(U, V)
    times = torch.as_tensor(times, dtype=torch.float64, device=U.device)
    return _sweep(U @ R, velocity, angles, R, times)


def parallel_transport(U: Tensor, along: Tensor, vector: Tensor, time: float = 1.0) -> Tensor:
    """Move a tangent vector along a geodesic, keeping its length and its angle with the geodesic.

    Args:
        U: (..., n, k), orthonormal columns: where the geodesic starts.
        along: D, (..., n, k), horizontal at U: its velocity.
        vector: Δ, (..., n, k), horizontal at U.
        time: how far to go.

    Returns:
        (..., n, k), horizontal at `grassmann_exp(U, time * along)`, in the basis which that returns.

    Raises:
        ConfigError: arguments of different shapes.

    Source:
        Edelman, Arias & Smith 1998, theorem 2.4, Δ + (Q (cos θ − 1) − U R sin θ) QᵀΔ for D = QθRᵀ at time 1.
    """
    U, along = _pair(U, time * along)
    _, vector = _pair(U, vector)
    angles, R = _principal_frame(along)
    overlap = R.mT @ (along.mT @ vector)
    # (1 − cos θ)/θ² without cancellation.
    along_share = _sinc(angles / 2).square().unsqueeze(-1) / 2 * overlap
    base_share = _sinc(angles).unsqueeze(-1) * overlap
    return vector - along @ (R @ along_share) - U @ (R @ base_share)


@dataclass(frozen=True)
class ChordalMean:
    """The subspace of least mean squared chordal distance to given ones.

    Attributes:
        U: (..., n, k), orthonormal columns.
        eigengap: (...,), λ_k − λ_{k+1} in [0, 1] of the mean projector: 1 where all agree, 0 where the
            mean is not defined.
    """

    U: Tensor
    eigengap: Tensor


def chordal_mean(U: Tensor, weights: Tensor | None = None) -> ChordalMean:
    """Leading eigenvectors of the mean projector: a mean in closed form, unique unless the eigengap is 0.

    Args:
        U: (..., N, n, k), orthonormal columns, k < n; the mean is over the N.
        weights: (..., N), not negative, need not sum to 1; equal if not given.

    Returns:
        The subspace (..., n, k), and the eigengap that singles it out.

    Raises:
        ConfigError: a negative weight.

    Source:
        Srivastava & Klassen 2002; Marrinan et al. 2014 (extrinsic mean).
    """
    (U,) = _double(U)
    weights = torch.ones_like(U[..., 0, 0]) if weights is None else weights.to(U)
    if (weights < 0).any():
        raise ConfigError(f"weights must not be negative, found {weights.min():g}: drop it or set it to 0")
    weights = weights / weights.sum(-1, keepdim=True)
    # All bases side by side, (..., n, N·k): projectors are never formed one by one.
    bases = U.transpose(-3, -2)
    mean = (bases * weights[..., None, :, None]).flatten(-2) @ bases.flatten(-2).mT
    eigenvalues, eigenvectors = torch.linalg.eigh(_finite(mean))
    k = U.shape[-1]
    eigengap = eigenvalues[..., -k] - eigenvalues[..., -k - 1]
    undefined = _nan_if_not_finite(mean)
    return ChordalMean(eigenvectors[..., -k:] + undefined[..., None, None], eigengap + undefined)


def _shortest(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DR, θ and R of a shortest geodesic from U to V, for its velocity D = QθRᵀ."""
    overlap = V.mT @ U
    A, cosines, Rh = torch.linalg.svd(_finite(overlap))
    sines = (V - U @ overlap.mT) @ A
    angles = torch.atan2(sines.norm(dim=-2), cosines)
    return sines / _sinc(angles).unsqueeze(-2), angles, Rh.mT


def _principal_frame(D: Tensor) -> tuple[Tensor, Tensor]:
    """θ and R of D = QθRᵀ; a small θ only to √ε, which even functions of it do not notice."""
    squares, R = torch.linalg.eigh(_finite(D.mT @ D))
    return squares.clamp(min=0).sqrt(), R


def _sweep(base: Tensor, velocity: Tensor, angles: Tensor, R: Tensor, times: Tensor) -> Tensor:
    """(UR cos tθ + DR (sin tθ)/θ) Rᵀ at all times, (..., T, n, k), from UR and DR."""
    swept = (times[:, None] * angles.unsqueeze(-2)).unsqueeze(-2)
    moved = base.unsqueeze(-3) * swept.cos()
    moved.addcmul_(velocity.unsqueeze(-3), times[:, None, None] * _sinc(swept))
    return moved @ R.mT.unsqueeze(-3)


def _sinc(angles: Tensor) -> Tensor:
    """(sin θ)/θ, which is 1 at 0."""
    return torch.sinc(angles / math.pi)


def _rejection(U: Tensor, V: Tensor) -> Tensor:
    return V - U @ (U.mT @ V)


def _pair(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    if U.shape[-2:] != V.shape[-2:]:
        raise ConfigError(
            f"both must be n×k with the same n and k, found {tuple(U.shape[-2:])} and {tuple(V.shape[-2:])}: "
            "compare subspaces of different dimensions by linalg.principal_angles"
        )
    return _double(U, V)


def _double(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In float64, and NaN throughout where an entry is not finite."""
    doubles = (tensor.to(torch.float64) for tensor in tensors)
    return tuple(double + _nan_if_not_finite(double)[..., None, None] for double in doubles)


def _finite(matrices: Tensor) -> Tensor:
    # LAPACK refuses a whole batch for one NaN.
    return matrices.nan_to_num(0, 0, 0)


def _nan_if_not_finite(matrices: Tensor) -> Tensor:
    """What to add: 0, or NaN where an entry is not finite."""
    return 0 * matrices.sum((-2, -1))
