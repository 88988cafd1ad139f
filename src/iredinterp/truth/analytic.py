"""Energies known by formula, with what is known of them: minima, saddles, barriers, spectra.

All are `Energy` objects, so every analysis runs on them unchanged. `QuadraticEnergy`, `DoubleWell` and
`MuellerBrown` do not depend on x; `InverseResidualEnergy` and `MaskedEnergy` are the residuals of the matrix
tasks; all five are the same at every level, unless a quadratic is given a spectrum per level.
`GaussianPosterior` and `MixturePosterior` are what a perfectly trained IRED has to represent: the optimum of
denoising at level t is E* = −σ_t log p_t(y|x) + c(x, t), and they have c = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from iredinterp.energy import ClosedFormEnergy
from iredinterp.errors import ConfigError

_float64 = partial(torch.tensor, dtype=torch.float64)


def haar_orthogonal(d: int, generator: torch.Generator) -> Tensor:
    """Uniformly random orthogonal matrix.

    Args:
        d, generator: its size, and the source of randomness.

    Returns:
        (d, d) float64.

    Source:
        Mezzadri 2007: QR of a Gaussian matrix with the signs of R's diagonal moved to Q.
    """
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return Q * R.diagonal().sign()


@dataclass(frozen=True, kw_only=True)
class QuadraticEnergy(ClosedFormEnergy):
    """E = ½ (y − c)ᵀ Q diag(λ_t) Qᵀ (y − c), whatever x.

    Args:
        spectrum: λ, (d,) for all levels or (K, d) with a row for each; any sign. Kept as (K, d).
        eigenbasis: Q, (d, d), orthogonal, for example from `haar_orthogonal`.
        centre: c, (d,); 0 if not given.

    Raises:
        ConfigError: shapes do not fit each other, or Q is not orthogonal.
    """

    spectrum: Tensor
    eigenbasis: Tensor
    centre: Tensor | None = None
    dim_x: int = 1
    dim_y: int = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        levels = self.schedule.levels
        leading = (levels,) if torch.as_tensor(self.spectrum).ndim == 2 else ()
        spectrum = _shaped("spectrum", self.spectrum, *leading, "d")
        d = spectrum.shape[-1]
        eigenbasis = _shaped("eigenbasis", self.eigenbasis, d, d)
        defect = (eigenbasis.mT @ eigenbasis - torch.eye(d)).abs().max()
        _require(defect < 1e-5, f"eigenbasis must be orthogonal, found |QᵀQ − I| = {defect:.1e}: use qr(Q)")
        centre = _shaped("centre", torch.zeros(d) if self.centre is None else self.centre, d)
        _set(self, dim_y=d, spectrum=spectrum.expand(levels, d), eigenbasis=eigenbasis, centre=centre)

    def minimum(self, x: Tensor, t: Tensor | int) -> Tensor:
        """The centre c, (B, d): stationary always, the minimum where λ_t > 0."""
        return self.centre.expand(len(x), -1)

    def eigenvalues(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Eigenvalues of ∇²_yE, (B, d), ascending; the same for every y."""
        return self.spectrum[t].expand(len(x), -1).sort(dim=-1).values

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        z = (y - self.minimum(x, t)) @ self.eigenbasis
        return (self.spectrum[t] * z.square()).sum(-1) / 2

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Q diag(λ_t) Qᵀ (y − m), (B, d), with m = minimum(x, t)."""
        z = (y - self.minimum(x, t)) @ self.eigenbasis
        return (self.spectrum[t] * z) @ self.eigenbasis.mT

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Q diag(λ_t) Qᵀ, (B, d, d)."""
        return (self.eigenbasis * self.spectrum[t].unsqueeze(-2)) @ self.eigenbasis.mT


@dataclass(frozen=True, kw_only=True)
class InverseResidualEnergy(ClosedFormEnergy):
    """E = ½‖XY − I‖_F², two-sided ½(‖XY − I‖_F² + ‖YX − I‖_F²); x is X and y is Y, n×n, row-major.

    Args:
        n: matrix size.
        two_sided: whether to add ½‖YX − I‖_F².

    Raises:
        ConfigError: n is below 1; on evaluation, x is not of width n².
    """

    n: int
    two_sided: bool = False
    dim_x: int = field(init=False)
    dim_y: int = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        _require(self.n >= 1, f"n must be at least 1, found {self.n}: give the matrix size")
        _set(self, dim_x=self.n**2, dim_y=self.n**2)

    def minimum(self, x: Tensor, t: Tensor | int) -> Tensor:
        """X⁻¹, (B, n²), where E = 0; unique for an invertible X."""
        return torch.linalg.inv(self._matrices(x)).flatten(-2)

    def eigenvalues(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Eigenvalues of ∇²_yE, (B, n²), ascending, from the singular values s of X; the same for every y.

        One-sided: s_i², each n times, hence κ(H) = κ(X)². Two-sided: s_i² + s_j² for all i, j.
        """
        squares = torch.linalg.svdvals(self._matrices(x)).square()
        rows, columns = squares.unsqueeze(-1), squares.unsqueeze(-2)
        sums = rows + columns if self.two_sided else rows.expand(-1, -1, self.n)
        return sums.flatten(-2).sort(dim=-1).values

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return sum(residual.square().sum((-2, -1)) for residual in self._residuals(x, y)) / 2

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Xᵀ(XY − I), two-sided + (YX − I)Xᵀ, (B, n²)."""
        X = self._matrices(x)
        right, *left = self._residuals(x, y)
        return (X.mT @ right + sum(residual @ X.mT for residual in left)).flatten(-2)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """XᵀX ⊗ I, two-sided + I ⊗ XXᵀ, (B, n², n²)."""
        X = self._matrices(x)
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device).expand_as(X)
        hessian = _kron(X.mT @ X, eye)
        return hessian + _kron(eye, X @ X.mT) if self.two_sided else hessian

    def _matrices(self, x: Tensor) -> Tensor:
        return _of_width(x, self.dim_x).unflatten(-1, (self.n, self.n))

    def _residuals(self, x: Tensor, y: Tensor) -> list[Tensor]:
        X, Y = self._matrices(x), y.unflatten(-1, (self.n, self.n))
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device)
        return [X @ Y - eye, Y @ X - eye] if self.two_sided else [X @ Y - eye]


@dataclass(frozen=True, kw_only=True)
class MaskedEnergy(ClosedFormEnergy):
    """E = ½‖M∘(Y − A)‖_F², with a rank also + μ/2 Σ_{i>r} s_i(Y)².

    x is A followed by the mask M (1 observed, 0 missing), both n×n and row-major: every problem has its own
    mask, and a missing entry is told from an observed zero. Missing entries of A do not matter.
    The penalty is μ/2 times the squared distance of Y to the matrices of rank r. It is smooth only where
    s_r > s_{r+1}: without that gap its gradient is one of several and its Hessian is not finite.

    Args:
        n: matrix size.
        rank: r, 1 … n − 1; None for no penalty.
        penalty: μ > 0; has no effect without a rank.

    Raises:
        ConfigError: n, rank or penalty is out of range; on evaluation, x is not of width 2n².
    """

    n: int
    rank: int | None = None
    penalty: float = 1.0
    dim_x: int = field(init=False)
    dim_y: int = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        n, r, mu = self.n, self.rank, self.penalty
        _require(n >= 1, f"n must be at least 1, found {n}: give the matrix size")
        _require(r is None or 1 <= r < n, f"rank must lie in 1 … {n - 1}, found {r}: None for no penalty")
        _require(0 < mu < math.inf, f"penalty must be positive, found {mu}: use rank=None for no penalty")
        _set(self, dim_x=2 * n**2, dim_y=n**2)

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        A, mask = self._problem(x)
        energy = (mask * (y - A)).square().sum(-1) / 2
        if self.rank is None:
            return energy
        values = torch.linalg.svdvals(y.unflatten(-1, (self.n, self.n)))
        return energy + self.penalty / 2 * values[..., self.rank :].square().sum(-1)

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """M∘M∘(Y − A) + μ(Y − Y_r), (B, n²), with Y_r the nearest matrix of rank r."""
        A, mask = self._problem(x)
        gradient = mask.square() * (y - A)
        if self.rank is None:
            return gradient
        U, values, Vh = torch.linalg.svd(y.unflatten(-1, (self.n, self.n)))
        rest = (U[..., self.rank :] * values[..., None, self.rank :]) @ Vh[..., self.rank :, :]
        return gradient + self.penalty * rest.flatten(-2)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """diag(M∘M) + μ(I − ∂Y_r/∂Y), (B, n², n²).

        In the singular bases of Y, I − ∂Y_r/∂Y maps Z to A∘Z + S∘Zᵀ. For i ≤ r < j, and the same for (j, i),
        A_ij = −s_j²/(s_i² − s_j²) and S_ij = −s_i s_j/(s_i² − s_j²); both indices ≤ r give A = 0, both > r
        A = 1, and S = 0. Each pair so has the eigenvalues −s_j/(s_i − s_j) and s_j/(s_i + s_j).

        Source:
            Perturbation of the truncated SVD; Feppon & Lermusiaux 2018, SIAM J. Matrix Anal. Appl. 39, 510.
        """
        _, mask = self._problem(x)
        hessian = torch.diag_embed(mask.square())
        if self.rank is None:
            return hessian
        U, values, Vh = torch.linalg.svd(y.unflatten(-1, (self.n, self.n)))
        straight, crossed = _truncation_coefficients(values, self.rank)
        basis = _kron(U, Vh.mT)
        coordinates = basis.mT.unflatten(-2, (self.n, self.n))
        image = straight.unsqueeze(-1) * coordinates + crossed.unsqueeze(-1) * coordinates.transpose(-3, -2)
        return hessian + self.penalty * basis @ image.flatten(-3, -2)

    def _problem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _of_width(x, self.dim_x).chunk(2, dim=-1)


@dataclass(frozen=True, kw_only=True)
class DoubleWell(ClosedFormEnergy):
    """E = (y_1² − 1)² + ½ Σ_{i≥2} c_i y_i², whatever x.

    Two minima ±e_1 with E = 0 and ∇² = diag(8, c), and between them one saddle, the origin, with E = 1
    and ∇² = diag(−4, c): the barrier is 1.

    Args:
        curvatures: c, (d − 1,), positive; empty for d = 1.

    Raises:
        ConfigError: curvatures is not a vector of positive numbers.
    """

    barrier: ClassVar[float] = 1.0

    curvatures: Tensor
    dim_x: int = 1
    dim_y: int = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        curvatures = _shaped("curvatures", self.curvatures, "d − 1")
        least = min(curvatures.tolist(), default=1.0)
        _require(least > 0, f"curvatures must be positive, found {least}: only then are ±e_1 minima")
        _set(self, dim_y=1 + len(curvatures), curvatures=curvatures)

    @property
    def minima(self) -> Tensor:
        """e_1 and −e_1, (2, d)."""
        first = torch.eye(self.dim_y, dtype=self.dtype, device=self.device)[0]
        return torch.stack([first, -first])

    @property
    def saddles(self) -> Tensor:
        """The origin, (1, d)."""
        return torch.zeros(1, self.dim_y, dtype=self.dtype, device=self.device)

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return (y[:, 0].square() - 1).square() + (self.curvatures * y[:, 1:].square()).sum(-1) / 2

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        first = y[:, :1]
        return torch.cat([4 * first * (first.square() - 1), self.curvatures * y[:, 1:]], dim=1)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """diag(12y_1² − 4, c), (B, d, d)."""
        first = 12 * y[:, :1].square() - 4
        return torch.diag_embed(torch.cat([first, self.curvatures.expand(len(y), -1)], dim=1))


@dataclass(frozen=True, kw_only=True)
class MuellerBrown(ClosedFormEnergy):
    """The Müller–Brown surface in the plane, whatever x.

    E = Σ_k E_k, E_k = A_k exp(½ z_kᵀ F_k z_k), z_k = y − m_k.

    Attributes:
        minima: the three minima along the valley, (3, 2), to ten decimals.
        minimum_energies: E there, (3,).
        saddles: (2, 2), to ten decimals; saddle i lies between minima i and i + 1.
        saddle_energies: E there, (2,).
        depths, centres, forms: A, (4,); m, (4, 2); and (a, b, c) in F = [[2a, b], [b, 2c]], (4, 3).

    Source:
        Müller & Brown 1979, Theor. Chim. Acta 53, 75.
    """

    minima: ClassVar[Tensor] = _float64(
        [[-0.5582236346, 1.4417258418], [-0.0500108230, 0.4666941049], [0.6234994049, 0.0280377585]]
    )
    minimum_energies: ClassVar[Tensor] = _float64([-146.69951721, -80.76781813, -108.16672412])
    saddles: ClassVar[Tensor] = _float64([[-0.8220015587, 0.6243128028], [0.2124865820, 0.2929883251]])
    saddle_energies: ClassVar[Tensor] = _float64([-40.66484351, -72.24894011])
    depths: ClassVar[Tensor] = _float64([-200.0, -100.0, -170.0, 15.0])
    centres: ClassVar[Tensor] = _float64([[1.0, 0.0], [0.0, 0.5], [-0.5, 1.5], [-1.0, 1.0]])
    forms: ClassVar[Tensor] = _float64([[-1, 0, -10], [-1, 0, -10], [-6.5, 11, -6.5], [0.7, 0.6, 0.7]])

    dim_x: int = 1
    dim_y: int = field(init=False, default=2)

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return self._terms(y)[0].sum(-1)

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Σ_k E_k F_k z_k, (B, 2)."""
        terms, pulls, _ = self._terms(y)
        return (terms.unsqueeze(-1) * pulls).sum(-2)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Σ_k E_k (F_k + F_k z_k z_kᵀ F_k), (B, 2, 2)."""
        terms, pulls, forms = self._terms(y)
        return (terms[..., None, None] * (forms + pulls.unsqueeze(-1) * pulls.unsqueeze(-2))).sum(-3)

    def _terms(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E_k, (B, 4), F_k z_k, (B, 4, 2), and F_k, (4, 2, 2)."""
        depths, centres, (a, b, c) = self.depths.to(y), self.centres.to(y), self.forms.to(y).unbind(-1)
        forms = torch.stack([2 * a, b, b, 2 * c], dim=-1).unflatten(-1, (2, 2))
        z = y.unsqueeze(-2) - centres
        pulls = torch.einsum("kij,bkj->bki", forms, z)
        return depths * ((z * pulls).sum(-1) / 2).exp(), pulls, forms


@dataclass(frozen=True, kw_only=True)
class GaussianPosterior(QuadraticEnergy):
    """E = −σ_t log N(y; √ᾱ_t μ(x), ᾱ_tΣ + σ_t²I): the optimum where y*|x ~ N(μ(x), Σ), μ(x) = Bx + b.

    A quadratic whose eigenvalues are σ_t/(ᾱ_t s_i² + σ_t²), in the eigenbasis of Σ with s_i² its eigenvalues,
    plus the constant of the normal density. Σ may be singular; Σ = 0, a deterministic task, gives ∇² = I/σ_t.

    Args:
        slope: B, (d, d_x).
        covariance: Σ, (d, d), symmetric and positive semidefinite.
        centre: b, (d,), the mean for x = 0; 0 if not given.

    Raises:
        ConfigError: shapes do not fit, Σ is no covariance; on evaluation, x is not of width d_x.

    Source:
        −σ_t∇_y log p_t(y|x) = E[ε|y, x] minimises the denoising loss ‖∇_yE − ε‖²; Vincent 2011, Neural
        Computation 23, 1661.
    """

    slope: Tensor
    covariance: Tensor
    spectrum: Tensor = field(init=False)
    eigenbasis: Tensor = field(init=False)
    dim_x: int = field(init=False)

    def __post_init__(self):
        slope = _shaped("slope", self.slope, "d", "d_x")
        d, dim_x = slope.shape
        covariance = _shaped("covariance", self.covariance, d, d)
        variances, eigenbasis = _principal_axes(covariance)
        schedule = self.schedule.to(torch.float64, "cpu")
        abar, sigma = schedule.abar.unsqueeze(-1), schedule.sigma.unsqueeze(-1)
        _set(self, spectrum=sigma / (abar * variances + sigma.square()), eigenbasis=eigenbasis)
        _set(self, slope=slope, covariance=covariance, dim_x=dim_x)
        super().__post_init__()

    def minimum(self, x: Tensor, t: Tensor | int) -> Tensor:
        """√ᾱ_t μ(x), (B, d)."""
        mean = _of_width(x, self.dim_x) @ self.slope.mT + self.centre
        return self.schedule.sqrt_alphas_cumprod[t].unsqueeze(-1) * mean

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        sigma, spectrum = self.schedule.sigma[t], self.spectrum[t]
        log_volume = (2 * math.pi * sigma.unsqueeze(-1) / spectrum).log().sum(-1) / 2
        return super().function(x, y, t) + sigma * log_volume


@dataclass(frozen=True, kw_only=True)
class MixturePosterior(ClosedFormEnergy):
    """E = −σ_t log Σ_k w_k N(y; √ᾱ_t μ_k(x), ᾱ_tΣ_k + σ_t²I): the optimum where y*|x is a Gaussian mixture.

    With E_k the energies of the components and r_k = P(k|x, y) their responsibilities,
    E = −σ_t log Σ_k w_k exp(−E_k/σ_t). The means move with the problem, weights and covariances do not.

    Args:
        weights: w, (C,), positive, with sum 1.
        components: C Gaussian posteriors of the same dimensions, levels, precision and device.

    Raises:
        ConfigError: w is no distribution over the components, or the components do not fit together.
    """

    weights: Tensor
    components: Sequence[GaussianPosterior]
    dim_x: int = field(init=False)
    dim_y: int = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        components = tuple(self.components)
        weights = _shaped("weights", self.weights, len(components))
        fits = (weights > 0).all() and abs(weights.sum() - 1) < 1e-6
        _require(fits, f"weights must be positive with sum 1, found {weights.tolist()}: divide by their sum")
        first = components[0]
        _set(self, weights=weights, components=components, dim_x=first.dim_x, dim_y=first.dim_y)
        kinds = {(e.dim_x, e.dim_y, e.dtype, *e.schedule.abar.tolist()) for e in (self, *components)}
        _require(len(kinds) == 1, f"components must share d_x, d, dtype and ᾱ_t, theirs and ours are {kinds}")

    def responsibilities(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """P(k|x, y), (B, C)."""
        return self._log_joint(x, y, t).softmax(-1)

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return -self.schedule.sigma[t] * self._log_joint(x, y, t).logsumexp(-1)

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Σ_k r_k ∇E_k, (B, d)."""
        return (self.responsibilities(x, y, t).unsqueeze(-1) * self._gradients(x, y, t)).sum(-2)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Σ_k r_k ∇²E_k − Cov_r[∇E_k]/σ_t, (B, d, d)."""
        weights, gradients = self.responsibilities(x, y, t).unsqueeze(-1), self._gradients(x, y, t)
        spread = gradients - (weights * gradients).sum(-2, keepdim=True)
        between = spread.mT @ (weights * spread) / self.schedule.sigma[t][:, None, None]
        hessians = torch.stack([component.hessian_formula(x, y, t) for component in self.components], dim=1)
        return (weights.unsqueeze(-1) * hessians).sum(1) - between

    def _log_joint(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Log of w_k N_k(y), (B, C)."""
        energies = torch.stack([component.function(x, y, t) for component in self.components], dim=-1)
        return self.weights.log() - energies / self.schedule.sigma[t].unsqueeze(-1)

    def _gradients(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """∇E_k, (B, C, d)."""
        return torch.stack([component.gradient_formula(x, y, t) for component in self.components], dim=-2)


def _truncation_coefficients(values: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A and S of `MaskedEnergy.hessian_formula`, (B, n, n) each, from the singular values s, (B, n)."""
    kept, dropped = values[..., :r].unsqueeze(-1), values[..., r:].unsqueeze(-2)
    gaps = kept.square() - dropped.square()
    n = values.shape[-1]
    straight, crossed = values.new_zeros(len(values), n, n), values.new_zeros(len(values), n, n)
    straight[:, r:, r:] = 1
    straight[:, :r, r:] = -dropped.square() / gaps
    crossed[:, :r, r:] = -kept * dropped / gaps
    for coefficients in (straight, crossed):
        coefficients[:, r:, :r] = coefficients[:, :r, r:].mT
    return straight, crossed


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """Batched Kronecker product of n×n matrices, (B, n², n²); row-major, (U ⊗ V) vec(Z) = vec(UZVᵀ)."""
    return torch.einsum("bij,bkl->bikjl", left, right).flatten(3).flatten(1, 2)


def _principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, (d,), ascending and none below 0, and principal axes, (d, d)."""
    tolerance = 1e-6 * covariance.abs().max()
    defect = (covariance - covariance.mT).abs().max()
    _require(defect <= tolerance, f"covariance must equal Σᵀ, found |Σ − Σᵀ| = {defect:.1e}: use (Σ + Σᵀ)/2")
    variances, axes = torch.linalg.eigh(covariance)
    least = variances.min()
    _require(least >= -tolerance, f"covariance must have eigenvalues ≥ 0, found {least:.3g}: use, say, FFᵀ")
    return variances.clamp(min=0), axes


def _of_width(x: Tensor, width: int) -> Tensor:
    found = tuple(x.shape)
    _require(found[-1] == width, f"x must have shape (B, {width}), found {found}: give the x of this energy")
    return x


def _require(holds: bool | Tensor, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _shaped(name: str, value: Tensor, *shape: int | str) -> Tensor:
    """The value in float64 on the CPU, finite and of this shape, in which a letter stands for any size."""
    tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    found, wanted = tuple(tensor.shape), ", ".join(map(str, shape))
    fits = all(isinstance(size, str) or size == length for size, length in zip(shape, found, strict=False))
    message = f"{name} must have shape ({wanted}), found {found}: match the other arguments"
    _require(fits and len(shape) == len(found), message)
    _require(tensor.isfinite().all(), f"{name} must be finite, found NaN or infinity: correct its entries")
    return tensor


def _set(energy: ClosedFormEnergy, **values) -> None:
    """Fill the fields of a frozen energy, tensors in its precision and on its device."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = value.to(energy.device, energy.dtype)
        object.__setattr__(energy, name, value)
