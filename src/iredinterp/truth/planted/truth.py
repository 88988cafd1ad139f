"""What is known about a planted network: its energy as a formula, and the part each hidden unit plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.ired.schedule import Schedule, cosine_schedule
from iredinterp.tables import tensor_array
from iredinterp.truth.analytic import QuadraticEnergy

# Roles of the units that E depends on.
NEEDED = {"circuit", "redundant", "saturated", "gated"}


@dataclass(frozen=True)
class UnitPair:
    """Two units of one layer with equal activations.

    Attributes:
        layer: 1, 2 or 3.
        role: "cancelling" (read with opposite weights) or "redundant" (each read with half the weight).
        units: their slots.
    """

    layer: int
    role: str
    units: tuple[int, int]


@dataclass(frozen=True)
class SaturatedUnit:
    """A constant unit of layer 1 that holds a unit of layer 2 at the minimum of swish.

    There swish' = 0, so E has no gradient with respect to the unit's activation. Yet setting it to zero loses
    the constant that the minimum carries, and y − √ᾱ_t Bx becomes y − √ᾱ_t Bx + shift · q_direction.

    Attributes:
        unit: its slot in layer 1.
        carrier: slot in layer 2 of the unit it holds; setting that to zero has the same effect.
        direction: column of the basis Q.
        shift: displacement along it.
    """

    unit: int
    carrier: int
    direction: int
    shift: float


@dataclass(frozen=True, eq=False)
class GatedBranch:
    """A pair of units of layer 3 that FiLM opens at some levels only, adding curvature there.

    Attributes:
        units: their slots.
        direction: column of the basis Q.
        levels: where the branch is open.
        extra: (K,), curvature that it adds; 0 where it is closed.
    """

    units: tuple[int, int]
    direction: int
    levels: tuple[int, ...]
    extra: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedTruth(QuadraticEnergy):
    """½ (y − √ᾱ_t Bx)ᵀ Q diag(a(t)) Qᵀ (y − √ᾱ_t Bx), a planted network, and the parts it was built from.

    Layers are numbered 1, 2, 3 as fc1, fc2, fc3; h is the hidden width.

    Attributes:
        eigenbasis: Q, (d, d), columns are the eigenvectors of ∇²_yE at every level.
        slope: B, (d, d_x).
        spectrum: a, (K, d), eigenvalue of column i at level t, gated branches included.
        gauge: orthogonal (d, d); fc4 returns gauge · (√(a_i/2) (Qᵀ(y − √ᾱ_t Bx))_i)_i.
        roles: per layer the role of each unit: "circuit", "unused" or the name of a decoy.
        directions: per layer (h,), the column q_i of Q along which a unit works, −1 for none.
        signals: per layer what swish sees in each unit, up to sign and FiLM gain: "y" for q_iᵀy, "mean" for
            q_iᵀBx, "error" for q_iᵀ(y − √ᾱ_t Bx), "" for anything else.
        gains: per layer 2 and 3 (K, h), the factor 1 + gain of FiLM; all FiLM biases are 0.
        pairs: cancelling and redundant pairs.
        saturated: saturated units.
        branches: gated branches.
    """

    slope: Tensor
    gauge: Tensor
    roles: Mapping[int, tuple[str, ...]]
    directions: Mapping[int, Tensor]
    signals: Mapping[int, tuple[str, ...]]
    gains: Mapping[int, Tensor]
    pairs: tuple[UnitPair, ...] = ()
    saturated: tuple[SaturatedUnit, ...] = ()
    branches: tuple[GatedBranch, ...] = ()

    def minimum(self, x: Tensor, t: Tensor | int) -> Tensor:
        """√ᾱ_t Bx, (B, d)."""
        return self.schedule.sqrt_alphas_cumprod[t].unsqueeze(-1) * (x @ self.slope.mT)

    def units(self, layer: int, role: str) -> Tensor:
        """Slots of the units of a layer that have this role, ascending."""
        return torch.tensor(
            [u for u, found in enumerate(self.roles[layer]) if found == role], dtype=torch.long
        )

    def circuit(self, layer: int, t: int) -> Tensor:
        """Units of a layer without which E differs at level t, (h,) bool; all others can go at once."""
        needed = torch.tensor([role in NEEDED for role in self.roles[layer]])
        for branch in self.branches:
            if layer == 3 and t not in branch.levels:
                needed[list(branch.units)] = False
        return needed

    def contraction(self, faithful: bool = True, inner_steps: int = 5) -> Tensor:
        """Factor on the unscaled answer's error along each column of Q, per level, (K, d).

        The jump contributes 1 − σ_t a, the first inner step 1 − η_t a and each later one 1 − m η_t a, with
        m = 2 in the released sampler and m = 1, and no jump, in the published one. Holds where nothing is
        clamped and no step undone.

        Args:
            faithful: as in `sample`.
            inner_steps: as in `sample`.
        """
        inner = self._descent(faithful, inner_steps)
        return (1 - self.schedule.sigma[:, None] * self.spectrum) * inner if faithful else inner

    def trajectory(self, x: Tensor, init: Tensor, faithful: bool = True, inner_steps: int = 5) -> Tensor:
        """Unscaled answer after each level, (K, B, d) for levels K−1 … 0, in closed form.

        Holds where nothing is clamped and no step undone. Unlike `contraction` it uses √ᾱ_t, 1/√ᾱ_t and
        σ_t/√ᾱ_t as the sampler does, each rounded to float32 on its own.

        Args:
            x: (B, d_x).
            init: (B, d), first state.
            faithful: as in `sample`.
            inner_steps: as in `sample`.
        """
        s, inner = self.schedule, self._descent(faithful, inner_steps)
        mean, y = x @ self.slope.mT @ self.eigenbasis, init @ self.eigenbasis
        answers = []
        for t in reversed(range(s.levels)):
            scale, unscale = s.sqrt_alphas_cumprod[t], s.sqrt_recip_alphas_cumprod[t]
            centre = scale * mean
            if faithful:
                gradient = self.spectrum[t] * (y - centre)
                y = scale * (unscale * y - s.sqrt_recipm1_alphas_cumprod[t] * gradient)
            answers.append(unscale * (centre + inner[t] * (y - centre)))
            y = s.sqrt_alphas_cumprod[max(t - 1, 0)] * answers[-1]
        return torch.stack(answers) @ self.eigenbasis.mT

    def _descent(self, faithful: bool, inner_steps: int) -> Tensor:
        relative_step = self.schedule.opt_step_size[:, None] * self.spectrum
        return (1 - relative_step) * (1 - (2 if faithful else 1) * relative_step) ** (inner_steps - 1)


def spectrum_table(truth: PlantedTruth) -> pa.Table:
    """The spectrum to be found, one row per level: `t`, `sigma` and the tensor `eigenvalues`, (d,)."""
    return pa.table(
        {
            "t": pa.array(range(truth.schedule.levels), pa.int32()),
            "sigma": pa.array(truth.schedule.sigma.numpy()),
            "eigenvalues": tensor_array(truth.spectrum.sort(dim=1).values),
        }
    )


def planted_schedule() -> Schedule:
    """The official ten levels in float64 with the values that a checkpoint holds, rounded to float32."""
    return cosine_schedule().to(torch.float32).to(torch.float64)


def posterior_spectrum(scales: Tensor) -> Tensor:
    """Eigenvalues of the Bayes-optimal Hessian for a Gaussian posterior, σ_t/(ᾱ_t s_i² + σ_t²).

    Args:
        scales: s, (d,), standard deviations of y given x along the eigenvectors of its covariance.

    Returns:
        (K, d) float64.

    Source:
        ∇²_yE = (I − (ᾱ_t/σ_t²) Cov[y₀|y, x])/σ_t, the second-order Tweedie formula; Manor & Michaeli 2024.
    """
    schedule = planted_schedule()
    sigma = schedule.sigma[:, None]
    return sigma / (schedule.abar[:, None] * scales.to(torch.float64).square() + sigma.square())
