"""The Bayes-optimal energy of a task, and the same energy with errors of known size.

The minimiser of IRED's denoising loss is ∇_yE* = E[ε | y, x, t] with y = √ᾱ_t y₀ + σ_t ε, so
E* = −σ_t ln p_t(y | x) up to an unidentified c(x, t), and by Tweedie's formulas

    ∇_yE* = (y − √ᾱ_t E[y₀ | y, x]) / σ_t,    ∇²_yE* = (I − (ᾱ_t/σ_t²) Cov[y₀ | y, x]) / σ_t.

Where x determines the answer this is E* = ‖y − √ᾱ_t y*‖²/(2σ_t) with ∇²_yE* = I/σ_t.

Source: Efron 2011; Manor & Michaeli 2024 (arXiv:2309.13598) for the second order.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from iredinterp.energy import ClosedFormEnergy, Energy, checked_levels, map_chunks
from iredinterp.errors import TaskError
from iredinterp.ired.schedule import Schedule, cosine_schedule
from iredinterp.ired.tasks import INVERSE_INPUT_NORM, ProblemSpec
from iredinterp.truth.completion import LowRankPosterior, RankOnePosterior

# Random features of an error field: its Hessian is Gaussian (semicircle) for many more than d of them.
FEATURES_PER_DIMENSION = 8
FEWEST_FEATURES = 1024
# Phase per unit of x: problems further apart than a few hundredths get unrelated error fields.
INPUT_FREQUENCY = 100.0
CHUNK = 32


class Posterior(Protocol):
    """What a task's law says of y₀; scale and sigma, (B, 1), are √ᾱ_t and σ_t. All in float64."""

    reference: str

    def exact(self, x: Tensor) -> Tensor:
        """True where moments have no error beyond rounding, (B,)."""
        ...

    def negative_log_density(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """−ln p_t(y | x) up to a function of x and t, (B,)."""
        ...

    def mean(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """E[y₀ | y, x], (B, d)."""
        ...

    def covariance(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Cov[y₀ | y, x], (B, d, d), and its standard error in the Frobenius norm, (B,)."""
        ...


class BayesOracle(ClosedFormEnergy):
    """E* of a distribution of problems; it sees x, y and t, as a network does.

    Addition, inversion and rank-1 completion whose observed entries connect all rows and columns are exact.
    Other completions of rank 1, and the official ones, of no exact rank, carry an error, see `standard_error`
    and `reference`; those of rank 2 or more, or of an exact rank from noisy entries, are refused. Arithmetic
    is float64 in any case.

    Args:
        spec: the distribution.
        schedule: levels; those of the model compared with, or the official ten if not given.
        dtype: precision x and y are given in and results come in.
        device: where x and y live.
        seed: of the random numbers behind inexact references; the energy is a fixed function.

    Attributes:
        reference: which reference is used, in words.

    Raises:
        TaskError: no reference is implemented for the distribution.

    Source:
        Tweedie's formula, Efron 2011, for the gradient; Manor & Michaeli 2024 (arXiv:2309.13598) for the
        Hessian.
    """

    spec: ProblemSpec
    reference: str

    def __init__(
        self,
        spec: ProblemSpec,
        *,
        schedule: Schedule | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ):
        posterior = _posterior(spec, seed)
        super().__init__(
            dim_x=spec.dim_x,
            dim_y=spec.dim_y,
            schedule=schedule or cosine_schedule(),
            dtype=dtype,
            device=device,
        )
        object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "reference", posterior.reference)
        object.__setattr__(self, "_posterior", posterior)

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """−σ_t ln p_t(y | x) up to c(x, t), (B,).

        Autograd follows it in y, except where the reference is sampled; vmap follows it where x determines
        the answer by a formula (addition, inversion).
        """
        x, wide, scale, sigma = self._level(x, y, t)
        return (sigma.squeeze(1) * self._posterior.negative_log_density(x, wide, scale, sigma)).to(y.dtype)

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """(y − √ᾱ_t E[y₀ | y, x]) / σ_t, (B, d)."""
        x, wide, scale, sigma = self._level(x, y, t)
        return ((wide - scale * self._posterior.mean(x, wide, scale, sigma)) / sigma).to(y.dtype)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """(I − (ᾱ_t/σ_t²) Cov[y₀ | y, x]) / σ_t, (B, d, d)."""
        return self._hessian_and_error(x, y, t)[0].to(y.dtype)

    @torch.no_grad()
    def gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """∇_yE*, (B, d), without E*, which costs as much again and several times that where it is sampled."""
        return self.gradient_formula(x, y, checked_levels(y, t, self.schedule))

    @torch.no_grad()
    def hessian_and_error(self, x: Tensor, y: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """∇²_yE*, (B, d, d), and its Monte Carlo standard error in the Frobenius norm, (B,), both float64.

        Args:
            x: (B, d_x).
            y: (B, d).
            t: integer or (B,).

        Returns:
            The error is 0 where the oracle is exact. From the spread between eight independent estimates.
        """
        return self._hessian_and_error(x, y, checked_levels(y, t, self.schedule))

    def standard_error(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """That error relative to ‖∇²_yE*‖_F, (B,)."""
        hessian, error = self.hessian_and_error(x, y, t)
        return (error / hessian.norm(dim=(1, 2))).to(y.dtype)

    @torch.no_grad()
    def exact(self, x: Tensor) -> Tensor:
        """Where E* of a problem is known up to rounding, (B,) bool, for x (B, d_x)."""
        self._check(x, "x", self.dim_x)
        return self._posterior.exact(x.double())

    def _hessian_and_error(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, y, scale, sigma = self._level(x, y, t)
        covariance, error = self._posterior.covariance(x, y, scale, sigma)
        gain = (scale / sigma).square()
        identity = torch.eye(self.dim_y, dtype=y.dtype, device=y.device)
        hessian = (identity - gain[..., None] * covariance) / sigma[..., None]
        return (hessian + hessian.mT) / 2, (gain / sigma).squeeze(1) * error

    def _level(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._check(x, "x", self.dim_x)
        self._check(y, "y", self.dim_y)
        scale, sigma = self.schedule.sqrt_alphas_cumprod[t], self.schedule.sigma[t]
        return x.double(), y.double(), scale.double()[:, None], sigma.double()[:, None]

    def _check(self, value: Tensor, name: str, width: int) -> None:
        if value.ndim != 2 or value.shape[1] != width:
            raise TaskError(
                f"{name}: found shape {tuple(value.shape)}, expected (B, {width}) for {self.spec.task} with "
                f"n = {self.spec.n}; flatten each matrix row by row"
            )


class PointPosterior:
    """An answer that x determines by a formula.

    Args:
        spec: addition or inversion.
    """

    def __init__(self, spec: ProblemSpec):
        self.spec = spec
        self.reference = "the answer itself, which x determines"

    def exact(self, x: Tensor) -> Tensor:
        """True, (B,)."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def negative_log_density(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """‖y − √ᾱ_t y*‖²/(2σ_t²), (B,)."""
        return (y - scale * self._answer(x)).square().sum(1) / (2 * sigma.squeeze(1).square())

    def mean(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """y*, (B, d)."""
        return self._answer(x)

    def covariance(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Zero, and no error."""
        return y.new_zeros(len(y), y.shape[1], y.shape[1]), y.new_zeros(len(y))

    def _answer(self, x: Tensor) -> Tensor:
        if self.spec.task == "addition":
            return x.unflatten(1, (2, -1)).sum(1)
        # y* = S⁻¹ for x = c S, with c = 1 in the official data.
        c = 1.0 if self.spec.kappa is None else INVERSE_INPUT_NORM / self.spec.kappa
        # Half the time of a general inverse at n = 20 (measured).
        try:
            factor = torch.linalg.cholesky(x.unflatten(1, (self.spec.n, self.spec.n)))
        except torch.linalg.LinAlgError as error:
            raise TaskError(
                "x: not all matrices are positive definite, as those of every inverse law are; give x drawn "
                "from the law of the oracle"
            ) from error
        return c * torch.cholesky_inverse(factor).flatten(1)


def _posterior(spec: ProblemSpec, seed: int) -> Posterior:
    if not isinstance(spec, ProblemSpec):
        raise TaskError(
            f"spec: found {type(spec).__name__}, expected a ProblemSpec; use make_problems(...).spec"
        )
    if spec.task != "completion":
        return PointPosterior(spec)
    if spec.rank is None:
        return LowRankPosterior(spec, seed)
    if spec.noise > 0:
        raise TaskError(
            f"noise: found {spec.noise}, no Bayes-optimal reference is implemented for completion of a given "
            "rank from noisy entries (its posterior has no closed form); use noise=0 with rank=1, or the "
            "official data (rank=None)"
        )
    if spec.rank > 1:
        raise TaskError(
            f"rank: found {spec.rank}, no Bayes-optimal reference is implemented for noise-free completion "
            "of rank ≥ 2 (whether and to what x completes is not decidable by a formula); use rank=1, or the "
            "official data (rank=None)"
        )
    return RankOnePosterior(spec, seed)


class NoisyOracle(ClosedFormEnergy):
    """An oracle plus an isotropic random error field of given size: a model with errors and no structure.

    The field is a Gaussian process in y with covariance a² exp(−‖Δy‖²/2ℓ²), built of K cosines:

        f(x, y, t) = a_t √(2/K) Σ_k cos(w_k·y/ℓ_t + v_k·x + φ_kt),    w_k ~ N(0, I),

    for which E‖∇f‖²/d = a²/ℓ² and E‖∇²f‖_F² = a²(d² + 2d)/ℓ⁴. Different levels and different x get
    independent fields. The eigenvalues of ∇²f follow a semicircle, shifted as a whole by one random number of
    standard deviation a/ℓ².

    Args:
        oracle: the energy to disturb.
        gradient_rms: (K,), √(E‖∇f‖²/d) at each level.
        hessian_rms: (K,), √(E‖∇²f‖_F²) at each level; 0 exactly where gradient_rms is.
        seed: of the field.

    Raises:
        TaskError: the targets are not one number ≥ 0 per level, or only one of a level's two is 0.

    Source:
        Rahimi & Recht 2007 (random Fourier features).
    """

    def __init__(self, oracle: ClosedFormEnergy, gradient_rms: Tensor, hessian_rms: Tensor, seed: int):
        super().__init__(
            dim_x=oracle.dim_x,
            dim_y=oracle.dim_y,
            schedule=oracle.schedule,
            dtype=oracle.dtype,
            device=oracle.device,
        )
        d, levels = oracle.dim_y, oracle.schedule.levels
        targets = {"gradient_rms": gradient_rms, "hessian_rms": hessian_rms}
        slope, curvature = (self._target(name, value) for name, value in targets.items())
        apart = (slope == 0) != (curvature == 0)
        if apart.any():
            raise TaskError(
                "gradient_rms, hessian_rms: found one 0 and the other not at levels "
                f"{apart.nonzero().flatten().tolist()}, which no stationary field can have; give both 0 or "
                "both above 0"
            )
        # One per unit length ℓ; 0/0 at levels without error, whose amplitude is 0 whatever the length.
        inverse_length = (curvature / (slope * math.sqrt(d * (d + 2)))).nan_to_num(nan=1.0)
        generator = torch.Generator().manual_seed(seed)
        count = max(FEWEST_FEATURES, FEATURES_PER_DIMENSION * d)
        drawn = {
            "_w": torch.randn(count, d, generator=generator, dtype=torch.float64),
            "_v": INPUT_FREQUENCY
            * torch.randn(count, oracle.dim_x, generator=generator, dtype=torch.float64),
            "_phase": 2 * math.pi * torch.rand(levels, count, generator=generator, dtype=torch.float64),
            "_inverse_length": inverse_length,
            "_amplitude": math.sqrt(2 / count) * slope / inverse_length,
        }
        object.__setattr__(self, "oracle", oracle)
        for name, value in drawn.items():
            object.__setattr__(self, name, value.to(self.dtype).to(self.device))

    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """E* + f, (B,)."""
        return self.oracle.function(x, y, t) + self._amplitude[t] * self._angles(x, y, t).cos().sum(1)

    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """∇_yE* + ∇f, (B, d)."""
        factor = (self._amplitude * self._inverse_length)[t, None]
        return self.oracle.gradient_formula(x, y, t) - factor * (self._angles(x, y, t).sin() @ self._w)

    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """∇²_yE* + ∇²f, (B, d, d)."""
        weights = (self._amplitude * self._inverse_length.square())[t, None] * self._angles(x, y, t).cos()
        hessian = self.oracle.hessian_formula(x, y, t)
        # Point by point: the features of all points at once would not fit into memory.
        error = torch.stack([(self._w.mT * row) @ self._w for row in weights])
        return hessian - (error + error.mT) / 2

    def _angles(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return self._inverse_length[t, None] * (y @ self._w.mT) + x @ self._v.mT + self._phase[t]

    def _target(self, name: str, value: Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=torch.float64).cpu()
        levels = self.schedule.levels
        if value.shape != (levels,) or not (value >= 0).all() or value.isinf().any():
            raise TaskError(
                f"{name}: found {value.tolist()}, expected one finite number ≥ 0 for each of {levels} levels"
            )
        return value


def error_rms(energy: Energy, oracle: Energy, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """How far an energy is from the oracle at each level: the targets of a `NoisyOracle`.

    The Monte Carlo error of an inexact oracle is part of the result.

    Args:
        energy: the energy judged.
        oracle: the optimum.
        x: (B, d_x).
        y: (B, d), q_sample points.
        t: (B,), every level at least once.

    Returns:
        √(mean ‖∇E − ∇E*‖²/d) and √(mean ‖∇²E − ∇²E*‖_F²), each (K,) float64.

    Raises:
        TaskError: a level has no point.
    """
    levels = energy.schedule.levels
    counts = torch.bincount(t, minlength=levels)
    if (counts == 0).any():
        raise TaskError(
            f"t: no point at levels {(counts == 0).nonzero().flatten().tolist()}; give points at all {levels}"
        )

    def errors(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        gradient = energy.gradient(x, y, t).double() - oracle.gradient(x, y, t).double()
        hessian = energy.hessian(x, y, t).double() - oracle.hessian(x, y, t).double()
        return torch.stack([gradient.square().mean(1), hessian.square().sum((1, 2))])

    squares = torch.cat(list(map_chunks(errors, (x, y, t), CHUNK)), 1)
    total = squares.new_zeros(2, levels).index_add_(1, t, squares)
    gradient_rms, hessian_rms = (total / counts).sqrt()
    return gradient_rms, hessian_rms
