"""Annealed inference: gradient descent on E(x, ·, t) from the noisiest level to the sharpest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from iredinterp.ired.schedule import Schedule

ANSWER_LIMIT = 2.0
# (x, y, t, ∇_yE) → what to follow in place of ∇_yE.
Substitute = Callable[[Tensor, Tensor, "Tensor | int", Tensor], Tensor]


class Landscape(Protocol):
    """What the sampler asks of an energy."""

    schedule: Schedule
    dim_y: int

    def energy(self, x: Tensor, y: Tensor, t: int) -> Tensor:
        """E, (…, B)."""
        ...

    def energy_and_gradient(self, x: Tensor, y: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """E, (…, B), and ∇_y E, (…, B, d)."""
        ...


@dataclass(frozen=True)
class Trajectory:
    """Every state of a sampler run; K levels in sampling order, S inner steps, B problems, d entries.

    Attributes:
        levels: (K,), K−1 … 0 unless others were asked for; index k of every other field is level `levels[k]`.
        entered: (K, B, d), state on entering the level, at the level's scale.
        jump_clamped: (K, B), entries of the jump's answer estimate outside ±2 (0 without a jump).
        states: (K, S, B, d), state before each inner step.
        energies: (K, S, B), E before each inner step.
        proposed_energies: (K, S, B), E of the proposed state.
        accepted: (K, S, B), False where the proposal raised E; it was then undone, unless `reject` was off.
        clamped: (K, S, B), entries of the proposal outside ±2√ᾱ_t.
        answers: (K, B, d), unscaled answer after the level.
        final: (B, d), what the sampler returns.
    """

    levels: Tensor
    entered: Tensor
    jump_clamped: Tensor
    states: Tensor
    energies: Tensor
    proposed_energies: Tensor
    accepted: Tensor
    clamped: Tensor
    answers: Tensor
    final: Tensor


def unchanged(x: Tensor, y: Tensor, t: Tensor | int, gradient: Tensor) -> Tensor:
    """The gradient itself.

    Args:
        x: (B, d_x).
        y: (B, d).
        t: level.
        gradient: (B, d), of the landscape there.

    Returns:
        (B, d).
    """
    return gradient


def sample(
    energy: Landscape,
    x: Tensor,
    init: Tensor | None = None,
    seed: int | None = None,
    faithful: bool = True,
    inner_steps: int = 5,
    jump_gradient: Substitute = unchanged,
    step_gradient: Substitute = unchanged,
    reject: bool = True,
    levels: Sequence[int] | None = None,
) -> Trajectory:
    """Answer the problems x by annealed descent, keeping every state.

    With `faithful=True` this is the released code, quirks included: a jump y ← √ᾱ_t·clamp(x̂₀) before the
    inner steps; inner steps of η_t, then 2η_t (the released code overwrites its step factor with the clamp
    factor); answers clamped to ±2; and a returned value left at the scale √ᾱ₀ ≈ 0.986 of the last level.
    With `faithful=False` it is the published algorithm: no jump, η_t throughout, the answer unscaled.

    Args:
        energy: the landscape; its schedule sets the levels.
        x: (B, d_x), conditions, in the precision and on the device of the energy.
        init: (B, d), first state; drawn from N(0, I) with `seed` if not given.
        seed: of the first state; exactly one of `init` and `seed` is needed.
        faithful: see above.
        inner_steps: inner steps per level (5 in the official matrix tasks), 0 for jumps alone.
        jump_gradient: what to follow in the jump, if there is one, in place of ∇_yE; energies stay those of
            the landscape.
        step_gradient: the same in the inner steps.
        reject: undo inner steps that raise E.
        levels: to pass through, in this order and as often as named; K−1 … 0 if not given.

    Returns:
        States, energies and decisions of every level and inner step, and the answers (K, B, d).

    Raises:
        ValueError: neither or both of `init` and `seed`, or levels that the energy does not have.

    Source:
        `p_sample_loop` and `opt_step` of the official release (commit 3d74b85); Du et al. 2024, algorithm 2.
    """
    if (init is None) == (seed is None):
        raise ValueError("sample needs either the first state `init` or a `seed` to draw it with")
    if init is None:
        shape = (*x.shape[:-1], energy.dim_y)
        init = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = init.to(x.device, x.dtype)
    s = energy.schedule
    order = list(reversed(range(s.levels)) if levels is None else levels)
    if not order or not all(0 <= t < s.levels for t in order):
        raise ValueError(f"levels must name some of 0 … {s.levels - 1}, found {order}")
    records = []
    for t, following in pairwise([*order, None]):
        entered, jump_clamped = y, torch.zeros(y.shape[:-1], dtype=torch.long, device=y.device)
        if faithful:
            _, gradient = energy.energy_and_gradient(x, y, t)
            gradient = jump_gradient(x, y, t, gradient)
            estimate = s.sqrt_recip_alphas_cumprod[t] * y - s.sqrt_recipm1_alphas_cumprod[t] * gradient
            jump_clamped = (estimate.abs() > ANSWER_LIMIT).sum(-1)
            y = s.sqrt_alphas_cumprod[t] * estimate.clamp(-ANSWER_LIMIT, ANSWER_LIMIT)
        later_factor = 2.0 if faithful else 1.0
        y, inner = descend(energy, x, y, t, inner_steps, later_factor, step_gradient, reject)
        limit = ANSWER_LIMIT * s.sqrt_alphas_cumprod[t]
        y = y.clamp(-limit, limit)
        answer = s.sqrt_recip_alphas_cumprod[t] * y
        records.append((torch.tensor(t), entered, jump_clamped, *inner, answer))
        final = y if faithful else answer
        if following is not None:
            y = s.sqrt_alphas_cumprod[following] * answer
    return Trajectory(*(torch.stack(column) for column in zip(*records, strict=True)), final)


def descend(
    energy: Landscape,
    x: Tensor,
    y: Tensor,
    t: Tensor | int,
    steps: int,
    later_factor: float = 2.0,
    step_gradient: Substitute = unchanged,
    reject: bool = True,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Clamped gradient descent within one level, each step undone for the problems whose energy it raised.

    Args:
        energy: the landscape.
        x: (…, B, d_x).
        y: (…, B, d), first state.
        t: level, an integer or (…, B).
        steps: number of steps.
        later_factor: multiple of η_t taken from the second step on (2 in the official release).
        step_gradient: what to follow in place of ∇_yE.
        reject: undo steps that raise E.

    Returns:
        The last state, and (states, energies, proposed_energies, accepted, clamped), each with a leading
        axis of length `steps` after the level axis, as in `Trajectory`.
    """
    step_size = energy.schedule.opt_step_size[t]
    limit = ANSWER_LIMIT * energy.schedule.sqrt_alphas_cumprod[t]
    if step_size.ndim:
        step_size, limit = step_size.unsqueeze(-1), limit.unsqueeze(-1)
    records = []
    for index in range(steps):
        before, gradient = energy.energy_and_gradient(x, y, t)
        gradient = step_gradient(x, y, t, gradient)
        proposal = y - step_size * gradient * (1.0 if index == 0 else later_factor)
        clamped = (proposal.abs() > limit).sum(-1)
        proposal = torch.minimum(torch.maximum(proposal, -limit), limit)
        after = energy.energy(x, proposal, t)
        accepted = ~(after > before)
        records.append((y, before, after, accepted, clamped))
        y = torch.where(accepted.unsqueeze(-1), proposal, y) if reject else proposal
    if not records:
        return y, _untaken(y)
    return y, tuple(torch.stack(column) for column in zip(*records, strict=True))


def _untaken(y: Tensor) -> tuple[Tensor, ...]:
    """What `descend` returns of no steps."""
    number = y.new_zeros(0, *y.shape[:-1])
    return y.new_zeros(0, *y.shape), number, number, number.bool(), number.long()
