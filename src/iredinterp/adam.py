"""Adam for fits of seconds: constructing `torch.optim.Adam` takes as long, for what it imports to compile."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """The optimiser, to the bit that of `torch.optim.Adam` with its default β and ε.

    Attributes:
        rate: step size; may be set anew before every step.
        state: per parameter `step`, `exp_avg` and `exp_avg_sq`, as torch calls them.

    Args:
        parameters: leaves that require gradients.
        rate: step size.
        fused: take the step in one kernel, which rounds differently.

    Source:
        Kingma & Ba 2015 (arXiv:1412.6980).
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float = 1e-3, fused: bool = False):
        self.rate = rate
        self.fused = fused
        self.state = {
            parameter: {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameter in parameters
        }

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters along their gradients, and drop these."""
        means, squares, steps = (
            [state[name] for state in self.state.values()] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        adam(
            list(self.state),
            [parameter.grad for parameter in self.state],
            means,
            squares,
            [],
            steps,
            foreach=False,
            fused=self.fused,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        for parameter in self.state:
            parameter.grad = None
