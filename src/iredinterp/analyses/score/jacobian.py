"""Leading eigenvectors of the denoiser's Jacobian, weighted by the gaps that identify them, and chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.energy import Energy
from iredinterp.linalg import finite_rows, zero_tolerance

# Davis & Kahan 1970: a relative gap this small leaves eigenvectors to rounding.
SEPARATION = 1e-8


@dataclass(frozen=True)
class DenoiserJacobian:
    """B Jacobians ∇D = R/√ᾱ_t, seen through R = I − σ_tH.

    The eigenvalues ρ of R are those of (ᾱ_t/σ_t²) Cov[y₀ | y, x] if the energy is optimal: 0 where x and y
    leave nothing open, near 1 where y is all that is known.

    The leading part of R is A = Σ_{i≤k} w_i v_i v_iᵀ with w_i ∝ ρ_i − max(ρ_{k+1}, 0) and Σw_i = 1: the sum
    of the projectors on the first, the first two, … eigenvectors, each weighted by the gap that follows. What
    no gap identifies has no weight, and eigenvectors of equal eigenvalues may be turned into each other.

    Attributes:
        eigenvalues: ρ, (B, d), descending; NaN where H is not finite.
        vectors: v_1 … v_k, (B, d, k).
        weights: w, (B, k); NaN where `defined` is false.
        resolved: (B,), whether R is more than rounding.
        defined: (B,), whether ρ_1 is above the noise floor and a gap follows.
    """

    eigenvalues: Tensor
    vectors: Tensor
    weights: Tensor
    resolved: Tensor
    defined: Tensor

    @classmethod
    def of(
        cls, energy: Energy, x: Tensor, y: Tensor, t: Tensor, count: int, floor: float
    ) -> DenoiserJacobian:
        """Those at x (B, d_x), y (B, d) and t (B,).

        Args:
            energy: the landscape.
            x: (B, d_x).
            y: (B, d).
            t: (B,).
            count: k, 1 … d − 1.
            floor: δ = ‖R‖_F/√d of an isotropic error. The largest eigenvalue of one is 2δ (Wigner's
                semicircle), so ρ_1 has to be above that.
        """
        hessian, finite = finite_rows(energy.hessian(x, y, t).double())
        scaled, vectors = torch.linalg.eigh(energy.schedule.sigma[t].double()[:, None, None] * hessian)
        # H ascending is R descending.
        rho = 1 - scaled
        # That of σ_tλ, and that of 1.
        rounding = zero_tolerance(pad(scaled, (0, 1), value=1), energy.dtype)
        excess = (rho[:, :count] - rho[:, count : count + 1].clamp(min=0)).clamp(min=0)
        gap = rounding.maximum(SEPARATION * rho[:, 0])
        defined = finite & (rho[:, 0] > 2 * floor) & (excess[:, 0] > gap)
        weights = (excess / excess.sum(1, keepdim=True)).where(defined.unsqueeze(1), torch.nan)
        resolved = finite & (rho.abs().amax(1) > rounding)
        rho = rho.where(finite.unsqueeze(1), torch.nan)
        return cls(rho, vectors[..., :count], weights, resolved, defined)

    def overlap(self, projected: Tensor) -> Tensor:
        """tr(PA), the share of A in a subspace, (B,), from the projections P v_i, (B, d, k)."""
        return (projected.square().sum(1) * self.weights).sum(1)

    def overlap_deviation(self, dimension: Tensor | float) -> Tensor:
        """Standard deviation of tr(PA) over uniformly random eigenvectors, (B,); its mean is dimension/d.

        Args:
            dimension: of the subspace, (B,) or a number.
        """
        d = self.eigenvalues.shape[1]
        dimension = torch.as_tensor(dimension, dtype=torch.float64, device=self.weights.device)
        return dimension * random_trace_deviation(self._square(), 1 / dimension, d)

    def cosine(self, other: DenoiserJacobian) -> Tensor:
        """tr(AB)/(‖A‖_F ‖B‖_F), (B,): 1 exactly where both leading parts are the same."""
        squares = (self.vectors.mT @ other.vectors).square()
        product = torch.einsum("bi,bij,bj->b", self.weights, squares, other.weights)
        return product / (self._square() * other._square()).sqrt()

    def cosine_chance(self, other: DenoiserJacobian) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of that cosine over uniformly random eigenvectors, each (B,)."""
        d, squares = self.eigenvalues.shape[1], (self._square(), other._square())
        sizes = (squares[0] * squares[1]).sqrt()
        return 1 / (d * sizes), random_trace_deviation(*squares, d) / sizes

    def negative_mass(self) -> Tensor:
        """Σ|ρ₋|/Σ|ρ|, (B,): 0 for a covariance, ½ for a symmetric error; NaN where R is rounding."""
        mass = self.eigenvalues.clamp(max=0).abs().sum(1) / self.eigenvalues.abs().sum(1)
        return mass.where(self.resolved, torch.nan)

    def size(self) -> Tensor:
        """‖R‖_F/√d, (B,)."""
        return self.eigenvalues.square().mean(1).sqrt()

    def _square(self) -> Tensor:
        """‖A‖_F²."""
        return self.weights.square().sum(1)


def random_trace_deviation(first: Tensor, second: Tensor | float, d: int) -> Tensor:
    """Standard deviation of tr(A QBQᵀ) over uniformly random rotations Q; the mean is 1/d.

    Args:
        first: ‖A‖_F² of symmetric A of trace 1, (…).
        second: ‖B‖_F² of symmetric B of trace 1, (…) or one number.
        d: dimension of the space, at least 2.

    Returns:
        (…).

    Source:
        Second moments of Haar projectors, e.g. Collins & Śniady 2006: 2‖A₀‖²‖B₀‖²/((d − 1)(d + 2)) with the
        parts of trace 0. For projectors that is `iredinterp.bases.haar_deviation`.
    """
    product = (first - 1 / d) * (second - 1 / d)
    return (2 * product.clamp(min=0)).sqrt() / math.sqrt((d - 1) * (d + 2))
