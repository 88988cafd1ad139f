"""What each level of a sampler run did: energy, distance, contraction, acceptance, stability."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iredinterp.analyses.annealing.arms import mean_square, smallest_error
from iredinterp.analyses.annealing.names import JUMP, MEASURED, PREDICTED, STEP
from iredinterp.energy import Energy, MLPEnergy
from iredinterp.ired.sampler import Trajectory, descend
from iredinterp.linalg import lanczos, random_vectors
from iredinterp.points import q_sample

# Values by metric and component.
Values = dict[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Levels:
    """A landscape along a run: states (K, B, d), each at its own level.

    Attributes:
        energy: the landscape.
        x: (B, d_x).
        t: (K,), the level of each.
    """

    energy: Energy
    x: Tensor
    t: Tensor

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """x, (KB, d_x), and t, (KB,)."""
        return self.x.repeat(len(self.t), 1), self.t.repeat_interleave(len(self.x))

    def energies(self, y: Tensor) -> Tensor:
        """E, (K, B), in float64."""
        x, t = self.flat
        return self.energy.energy(x, y.flatten(0, 1), t).double().reshape(y.shape[:2])

    def gradient(self, y: Tensor) -> Tensor:
        """∇_yE, (K, B, d)."""
        x, t = self.flat
        return self.energy.gradient(x, y.flatten(0, 1), t).reshape(y.shape)

    def hvp(self, y: Tensor, v: Tensor) -> Tensor:
        """∇²_yE v, (K, B, d)."""
        x, t = self.flat
        return self.energy.hvp(x, y.flatten(0, 1), t, v.flatten(0, 1)).reshape(y.shape)

    def constant(self, name: str) -> Tensor:
        """A constant of the schedule as a column, (K, 1) float64."""
        return getattr(self.energy.schedule, name)[self.t].double()[:, None]


def ledger(
    energy: Energy, x: Tensor, y_star: Tensor, run: Trajectory, noise: Tensor, krylov: int, seed: int
) -> Values:
    """The per-level metrics of `iredinterp.analyses.annealing.annealing_table` but for those of modes.

    Args:
        energy: the landscape.
        x: (B, d_x).
        y_star: (B, d) float64.
        run: of the faithful sampler with at least two inner steps.
        noise: ε of the q_samples, (B, d) float64.
        krylov: Lanczos steps for the largest eigenvalue.
        seed: of their first vector.

    Returns:
        (K, B) each, in the order of the run.
    """
    at = Levels(energy, x, run.levels.to(x.device))
    scale = at.constant("sqrt_alphas_cumprod")
    landed, stepped = run.states[:, 0], run.states[:, 1]
    ended = (scale[..., None] * run.answers.double()).to(x)
    last = run.proposed_energies[:, -1].where(run.accepted[:, -1], run.energies[:, -1]).double()
    d, steps = y_star.shape[1], run.accepted.shape[1]
    unit = at.constant("sigma") * math.sqrt(d)
    gain, size = at.constant("sqrt_recipm1_alphas_cumprod"), at.constant("opt_step_size")
    error = mean_square(run.answers, y_star)
    values = {
        ("answer_error", ""): error,
        ("error_reduction", ""): error_reduction(error, y_star),
        ("energy_change", JUMP): run.energies[:, 0].double() - at.energies(run.entered),
        ("energy_change", STEP): last - run.energies[:, 0].double(),
        ("moved", JUMP): (landed - run.entered).double().norm(dim=-1) / unit,
        ("moved", STEP): (ended - landed).double().norm(dim=-1) / unit,
        ("accept_rate", ""): run.accepted.double().mean(1),
        ("accept_disagreement", ""): accept_disagreement(energy, x, run),
        ("clamped", JUMP): run.jump_clamped / d,
        ("clamped", STEP): run.clamped.double().mean(1) / d,
        ("gradient_evaluations", ""): torch.full_like(error, 1 + steps),
        ("stability", ""): 2 * size * largest_curvature(at, landed, krylov, seed),
        ("estimate_error", PREDICTED): gain * gradient_rms(at, y_star, noise),
        ("estimate_error", MEASURED): mean_square(landed.double() / scale[..., None], y_star).sqrt(),
    }
    slopes = [at.gradient(y).double() for y in (run.entered, landed, stepped)]
    for part, y, move, before, after, step in (
        (JUMP, run.entered, landed - run.entered, *slopes[:2], "sigma"),
        (STEP, landed, stepped - landed, *slopes[1:], "opt_step_size"),
    ):
        seen, told = curvatures(y, move.double(), after - before, at.hvp(y, move).double())
        values["contraction", f"{part}, {MEASURED}"] = 1 - at.constant(step) * seen
        values["contraction", f"{part}, {PREDICTED}"] = 1 - at.constant(step) * told
    return values


def error_reduction(error: Tensor, y_star: Tensor) -> Tensor:
    """Ln of the error before a level over that after it, (K, B); before the first level, of the answer 0.

    Args:
        error: mean squared, after each level in order, (K, B).
        y_star: (B, d).

    Returns:
        (K, B), NaN where one of the two is rounding.
    """
    before = torch.cat([y_star.square().mean(-1)[None], error[:-1]])
    undefined = torch.minimum(before, error) <= smallest_error(y_star)
    return (before / error).log().masked_fill(undefined, torch.nan)


def curvatures(y: Tensor, move: Tensor, change: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Curvature met along moves, mᵀ(∇E(y + m) − ∇E(y))/‖m‖², and that at their start, mᵀHm/‖m‖², (…) each.

    They are equal for a quadratic E. NaN where the state moved by no more than rounding.

    Args:
        y: states before, (…, d), in the precision of the run.
        move: m, (…, d).
        change: ∇E(y + m) − ∇E(y), (…, d).
        product: Hm, (…, d), with H taken at y.
    """
    size = move.square().sum(-1)
    still = size.sqrt() <= 1000 * torch.finfo(y.dtype).eps * y.double().norm(dim=-1)
    parts = ((move * other).sum(-1) / size for other in (change, product))
    return tuple(part.masked_fill(still, torch.nan) for part in parts)


def gradient_rms(at: Levels, y_star: Tensor, noise: Tensor) -> Tensor:
    """δ_t = ‖∇E(√ᾱ_t y* + σ_t ε) − ε‖/√d, (K, B)."""
    schedule = at.energy.schedule
    y = torch.stack([q_sample(y_star.to(at.x), int(t), noise.to(at.x), schedule) for t in at.t])
    return mean_square(at.gradient(y), noise).sqrt()


def largest_curvature(at: Levels, y: Tensor, steps: int, seed: int) -> Tensor:
    """λ_max of ∇²_yE by Lanczos, (K, B): never above it, and exact for `steps` ≥ d."""
    generator = torch.Generator().manual_seed(seed)
    start = random_vectors(y[0, 0], generator).expand_as(y).flatten(0, 1)
    x, t = at.flat
    multiply = at.energy.hvp_operator(x, y.flatten(0, 1), t)
    values, _, _ = lanczos(multiply, start, min(steps, y.shape[-1]), generator).ritz()
    return values[:, -1].reshape(y.shape[:2])


def accept_disagreement(energy: Energy, x: Tensor, run: Trajectory) -> Tensor:
    """Share of accept decisions that the other precision decides otherwise at the same states, (K, B).

    NaN for an energy that is no network: a formula has no weights to round.
    """
    levels, steps, count, _ = run.states.shape
    if not isinstance(energy, MLPEnergy):
        return torch.full((levels, count), torch.nan, dtype=torch.float64, device=x.device)
    other = torch.float32 if energy.dtype == torch.float64 else torch.float64
    twin = replace(energy, model=energy.model.to(other))
    # The released sampler takes η_t in the first inner step and 2η_t in the later ones.
    factor = torch.full((steps, count, 1), 2.0, dtype=other, device=x.device)
    factor[0] = 1
    factor = factor.flatten(0, 1)

    def decisions(states: Tensor, t: int) -> Tensor:
        _, (_, _, _, accepted, _) = descend(
            twin,
            x.to(other).repeat(steps, 1),
            states.flatten(0, 1).to(other),
            t,
            1,
            step_gradient=lambda x, y, t, gradient: factor * gradient,
        )
        return accepted.reshape(steps, count)

    again = torch.stack([decisions(run.states[k], t) for k, t in enumerate(run.levels.tolist())])
    return (again != run.accepted).double().mean(1)
