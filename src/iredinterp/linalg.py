"""Linear algebra shared by the analyses: subspaces, shapes of a spectrum, batched Lanczos.

Everything is batched over leading axes and runs where its arguments live. Angles, projections and shapes of
a spectrum lose half their digits in float32: give float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad


def principal_angles(U: Tensor, V: Tensor) -> Tensor:
    """Angles between two subspaces, accurate to rounding at 0 and at π/2 alike.

    The cosines are the singular values of UᵀV and the sines those of V − UUᵀV; θ = atan2(sine, cosine).
    Cosines alone resolve no angle below 1.5e-8, sines alone none that close to π/2.

    Args:
        U: (..., d, k), orthonormal columns.
        V: (..., d, l), orthonormal columns.

    Returns:
        (..., min(k, l)) in radians, ascending in [0, π/2].

    Source:
        Björck & Golub 1973; Knyazev & Argentati 2002.
    """
    if V.shape[-1] > U.shape[-1]:
        U, V = V, U
    overlap = U.mT @ V
    cosines = torch.linalg.svdvals(overlap)
    sines = torch.linalg.svdvals(V - U @ overlap).flip(-1)
    return torch.atan2(sines, cosines)


def subspace_overlap(U: Tensor, V: Tensor) -> Tensor:
    """Mean squared cosine of the principal angles, ‖UᵀV‖_F² / min(k, l).

    Args:
        U: (..., d, k), orthonormal columns.
        V: (..., d, l), orthonormal columns.

    Returns:
        (...,): 1 where one contains the other, 0 where they are orthogonal, max(k, l)/d on average between
        uniformly random subspaces.
    """
    return (U.mT @ V).square().sum((-2, -1)) / min(U.shape[-1], V.shape[-1])


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    """Effective number of curved directions, (Σ|λ|)² / Σλ².

    Args:
        eigenvalues: (..., d), any sign and order.

    Returns:
        (...,) in [1, d]; NaN where all eigenvalues are zero.

    Source:
        Gao et al. 2017; equals R(Σ) of Bartlett et al. 2020 on positive semidefinite matrices.
    """
    magnitude = _relative_magnitude(eigenvalues)
    return magnitude.sum(-1).square() / magnitude.square().sum(-1)


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """Exponential of the entropy of the spectrum, exp(−Σ p ln p) with p = |λ|/Σ|λ|.

    Args:
        eigenvalues: (..., d), any sign and order.

    Returns:
        (...,) in [1, d]; NaN where all eigenvalues are zero.

    Source:
        Roy & Vetterli 2007.
    """
    magnitude = _relative_magnitude(eigenvalues)
    return torch.special.entr(magnitude / magnitude.sum(-1, keepdim=True)).sum(-1).exp()


def stable_rank(eigenvalues: Tensor) -> Tensor:
    """‖H‖_F² / ‖H‖₂².

    Args:
        eigenvalues: (..., d), any sign and order.

    Returns:
        (...,) in [1, d]; NaN where all eigenvalues are zero.

    Source:
        Rudelson & Vershynin 2007.
    """
    return _relative_magnitude(eigenvalues).square().sum(-1)


def intrinsic_dimension(eigenvalues: Tensor) -> Tensor:
    """Σ|λ| / |λ|max.

    Args:
        eigenvalues: (..., d), any sign and order.

    Returns:
        (...,) in [1, d]; NaN where all eigenvalues are zero.

    Source:
        Tropp 2015, section 7; Ipsen & Saibaba 2024 (arXiv:2407.21594).
    """
    return _relative_magnitude(eigenvalues).sum(-1)


def condition_number(eigenvalues: Tensor) -> Tensor:
    """|λ|max / |λ|min: of a nearly singular matrix a measure of rounding, see `quantile_ratio`.

    Args:
        eigenvalues: (..., d), any sign and order.

    Returns:
        (...,) in [1, ∞]; NaN where all eigenvalues are zero.
    """
    magnitude = eigenvalues.abs()
    return magnitude.amax(-1) / magnitude.amin(-1)


def quantile_ratio(eigenvalues: Tensor, low: float = 0.05, high: float = 0.95) -> Tensor:
    """Spread of the bulk, the `high` over the `low` quantile of |λ|.

    Args:
        eigenvalues: (..., d), any sign and order.
        low: level of the quantile below.
        high: level of the quantile above.

    Returns:
        (...,) in [1, ∞], quantiles interpolated linearly; NaN where both are zero.
    """
    # torch.quantile refuses more than 2²⁴ numbers.
    magnitude = eigenvalues.abs().sort(-1).values
    return _interpolate(magnitude, high) / _interpolate(magnitude, low)


def spectral_gap(eigenvalues: Tensor, tolerance: Tensor | float) -> tuple[Tensor, Tensor]:
    """Widest step ln|λ_i| − ln|λ_{i+1}| of the spectrum in descending magnitude.

    Args:
        eigenvalues: (..., d), any sign and order.
        tolerance: (...,) or a number; steps onto magnitudes at or below it do not count.

    Returns:
        The step, (...,), and its position i, (...,), counted from 1 (the first if several are as wide), so
        that i directions lie above the gap; both NaN with fewer than two magnitudes above the tolerance.

    Source:
        The gap criterion of Ventura et al. 2024 (arXiv:2410.05898) on a logarithmic scale.
    """
    magnitude = eigenvalues.abs().sort(-1, descending=True).values
    both_count = magnitude[..., 1:] > _as_column(tolerance, magnitude)
    steps = magnitude[..., :-1].log() - magnitude[..., 1:].log()
    steps = pad(steps.where(both_count, -torch.inf), (0, 1), value=-torch.inf)
    widest, index = steps.max(-1)
    undefined = widest.isneginf()
    return widest.masked_fill(undefined, torch.nan), (index + 1).to(widest).masked_fill(undefined, torch.nan)


def zero_tolerance(eigenvalues: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """Magnitude below which a computed eigenvalue says nothing, τ = 10·ε·√d·|λ|max.

    Args:
        eigenvalues: (..., d), the whole spectrum.
        precision: precision the matrix was built in; that of the eigenvalues if not given.

    Returns:
        (...,).

    Source:
        Weyl's inequality: errors are absolute, a modest multiple of ε·|λ|max.
    """
    epsilon = torch.finfo(precision or eigenvalues.dtype).eps
    return 10 * epsilon * math.sqrt(eigenvalues.shape[-1]) * eigenvalues.abs().amax(-1)


def inertia(eigenvalues: Tensor, tolerance: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """How many eigenvalues are positive, zero and negative, (n₊, n₀, n₋).

    Args:
        eigenvalues: (..., d).
        tolerance: (...,) or a number; |λ| at or below it is zero. See `zero_tolerance`.

    Returns:
        Three integer tensors (...,).
    """
    tolerance = _as_column(tolerance, eigenvalues)
    positive, negative = eigenvalues > tolerance, eigenvalues < -tolerance
    zero = eigenvalues.abs() <= tolerance
    return positive.sum(-1), zero.sum(-1), negative.sum(-1)


def finite_rows(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """A batch that LAPACK accepts: where a matrix is not finite, zeros in its place and False beside it.

    Args:
        matrices: (B, n, m).

    Returns:
        The matrices, (B, n, m), and where they are finite, (B,), boolean.
    """
    finite = matrices.isfinite().all(-1).all(-1)
    return matrices.where(finite[:, None, None], 0), finite


def relative_rounding(matrices: Tensor) -> float:
    """Relative size below which a difference between matrices says nothing, 10·ε·max(n, m).

    Args:
        matrices: (..., n, m), of the precision meant.

    Returns:
        A number.
    """
    return 10 * torch.finfo(matrices.dtype).eps * max(matrices.shape[-2:])


def unit_matrices(matrices: Tensor) -> Tensor:
    """Matrices over their Frobenius norm.

    Args:
        matrices: (B, n, m).

    Returns:
        (B, n, m) in float64; NaN where a matrix is zero or not finite.
    """
    # Dividing by the largest entry first keeps squares inside the number range.
    scaled = matrices.double() / matrices.double().abs().amax((-2, -1), keepdim=True)
    return scaled / scaled.norm(dim=(-2, -1), keepdim=True)


@dataclass(frozen=True)
class Tridiagonal:
    """B symmetric matrices seen from Krylov spaces of dimension m, HQ = QT + β_m q_{m+1}e_mᵀ.

    Attributes:
        alpha: (B, m), diagonal of T.
        beta: (B, m), subdiagonal of T, then β_m.
        basis: Q, (B, d, m), orthonormal columns.
        roundoff: (B,), what rounding and restarts can have added to a residual.
    """

    alpha: Tensor
    beta: Tensor
    basis: Tensor
    roundoff: Tensor

    @property
    def matrix(self) -> Tensor:
        """T, (B, m, m), in float64."""
        alpha, beta = self.alpha.double(), self.beta[:, :-1].double()
        return alpha.diag_embed() + beta.diag_embed(1) + beta.diag_embed(-1)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenpairs of T as approximate eigenpairs of H.

        Returns:
            values: (B, m), ascending.
            coefficients: S, (B, m, m); the Ritz vectors are the columns of QS.
            residuals: (B, m), β_m|s_m| = ‖H Qs − λ Qs‖ before rounding; some eigenvalue of H is within
                residual + roundoff of the value.
        """
        values, coefficients = torch.linalg.eigh(self.matrix)
        return values, coefficients, self.beta[:, -1:].double() * coefficients[:, -1].abs()


def lanczos(
    multiply: Callable[[Tensor], Tensor], start: Tensor, steps: int, generator: torch.Generator
) -> Tridiagonal:
    """Batched Lanczos with two full reorthogonalisations per step.

    Where a Krylov space closes early (every space does with repeated eigenvalues, which one start vector
    cannot tell apart), that problem goes on from a random direction orthogonal to it, with β = 0: at
    steps = d the whole spectrum is found, multiplicities included.

    Args:
        multiply: v ↦ Hv for symmetric H, (B, d) → (B, d).
        start: (B, d), not zero; its precision is that of the recurrence.
        steps: m, 1 … d.
        generator: draws the random directions.

    Returns:
        T and the basis Q of the Krylov spaces: H is seen from m dimensions.

    Raises:
        ValueError: steps outside 1 … d.

    Source:
        Paige 1972; Parlett, The Symmetric Eigenvalue Problem, ch. 13 (twice is enough; residual bound).
    """
    size, dimension = start.shape
    if not 1 <= steps <= dimension:
        raise ValueError(f"steps must lie in 1 … d = {dimension}, found {steps}")
    tolerance = 10 * torch.finfo(start.dtype).eps * math.sqrt(dimension)
    basis = start.new_zeros(size, dimension, steps)
    alpha, beta = start.new_zeros(2, size, steps)
    scale = start.new_zeros(size)
    vector = normalize(start, eps=0)
    for step in range(steps):
        basis[..., step] = vector
        product = multiply(vector)
        scale = torch.maximum(scale, product.norm(dim=-1))
        alpha[:, step] = (vector * product).sum(-1)
        known = basis[..., : step + 1]
        rest = _orthogonal_part(product, known)
        norm = rest.norm(dim=-1)
        closed = norm <= tolerance * scale
        beta[:, step] = norm.masked_fill(closed, 0)
        if step + 1 < steps and closed.any():
            fresh = _orthogonal_part(random_vectors(start, generator), known)
            rest = torch.where(closed.unsqueeze(-1), fresh, rest)
        vector = normalize(rest, eps=0)
    return Tridiagonal(alpha, beta, basis, tolerance * scale)


def random_vectors(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal tensor of the shape, precision and device of another, the same on every device.

    Args:
        like: (..., d), of any shape.
        generator: source of randomness; numbers are drawn on its device.

    Returns:
        (..., d), of the shape of `like`.
    """
    drawn = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


def _orthogonal_part(vectors: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        vectors = vectors - (basis @ (basis.mT @ vectors.unsqueeze(-1))).squeeze(-1)
    return vectors


def _relative_magnitude(eigenvalues: Tensor) -> Tensor:
    # Dividing by the largest keeps squares of very small or large spectra inside the number range.
    magnitude = eigenvalues.abs()
    return magnitude / magnitude.amax(-1, keepdim=True)


def _interpolate(ascending: Tensor, level: float) -> Tensor:
    position = level * (ascending.shape[-1] - 1)
    below, above = math.floor(position), math.ceil(position)
    return torch.lerp(ascending[..., below], ascending[..., above], position - below)


def _as_column(tolerance: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(tolerance, dtype=like.dtype, device=like.device).unsqueeze(-1)
