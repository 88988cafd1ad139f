"""Ways through the levels, each from the same first state, and how far from the answer they end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.analyses.annealing.names import FULL
from iredinterp.energy import Energy
from iredinterp.ired.sampler import sample

# Size, relative to the answer, of errors that come of the released schedule's float32 constants alone.
ROUNDING = 1e-6
INNER_STEPS = 5
MORE = 10


@dataclass(frozen=True)
class Arm:
    """One way to spend gradients.

    Attributes:
        levels: passed through, in this order.
        inner_steps: after the jump of each.
    """

    levels: tuple[int, ...]
    inner_steps: int = INNER_STEPS

    @property
    def evaluations(self) -> int:
        """Gradients of E taken per problem."""
        return len(self.levels) * (1 + self.inner_steps)


def arms_of(levels: int, seed: int) -> dict[str, Arm]:
    """All arms by name, `FULL` first.

    Those that keep the number of levels and of inner steps cost as many gradients as the full one; jumps
    alone cost a sixth of that, whichever levels they are taken at.

    Args:
        levels: K.
        seed: of the shuffled order, in which the sharpest level stays the last.
    """
    down = tuple(reversed(range(levels)))
    noisy = 1 + torch.randperm(levels - 1, generator=torch.Generator().manual_seed(seed))
    return {
        FULL: Arm(down),
        "sharpest level only": Arm((0,) * levels),
        "middle level only": Arm((levels // 2,) * levels),
        "without the noisiest": Arm(down[1:] or down),
        "reversed": Arm(down[::-1]),
        "shuffled, sharpest last": Arm((*noisy.tolist(), 0)),
        "jumps only": Arm(down, 0),
        "jumps at the sharpest": Arm((0,) * levels, 0),
        "ten times the inner steps": Arm(down, MORE * INNER_STEPS),
    }


def arm_errors(
    energy: Energy, x: Tensor, y_star: Tensor, first: Tensor, arms: dict[str, Arm]
) -> dict[str, Tensor]:
    """‖ŷ − y*‖²/d of the unscaled answer that each arm ends with, (B,) each.

    Args:
        energy: the landscape.
        x: (B, d_x).
        y_star: (B, d) float64.
        first: (B, d), first states.
        arms: by name.
    """
    return {
        name: mean_square(
            sample(energy, x, init=first, levels=arm.levels, inner_steps=arm.inner_steps).answers[-1], y_star
        )
        for name, arm in arms.items()
    }


def mean_square(answers: Tensor, y_star: Tensor) -> Tensor:
    """‖ŷ − y*‖²/d of answers (…, B, d), in float64: (…, B)."""
    return (answers.double() - y_star).square().mean(-1)


def smallest_error(y_star: Tensor) -> Tensor:
    """Mean squared error below which an answer is right to rounding, (B,), see `ROUNDING`."""
    return ROUNDING**2 * y_star.square().mean(-1)


def log_ratio(error: Tensor, reference: Tensor, y_star: Tensor) -> Tensor:
    """Ln error/reference, (B,), with both at least the `smallest_error`: 0 where both are right."""
    floor = smallest_error(y_star).clamp(min=torch.finfo(torch.float64).tiny)
    return error.maximum(floor).log() - reference.maximum(floor).log()
