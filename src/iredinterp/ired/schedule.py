"""The annealing levels of IRED: ᾱ_t, σ_t and the inner step size η_t for t = 0 … K−1.

Level t = K−1 is the noisiest and smoothest landscape, t = 0 the sharpest. A state at level t lives at
scale √ᾱ_t, never unscaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Per-level constants, each (K,), under the names of the official checkpoint's buffers.

    The official code rounds every buffer to float32 on its own, so √ᾱ_t and ᾱ_t of a checkpoint agree
    only to 1e-8; replaying its sampler needs the buffers themselves, not values recomputed from ᾱ_t.

    Attributes:
        betas: β_t, variance added between levels t−1 and t.
        alphas_cumprod: ᾱ_t = Π_{s≤t} (1 − β_s).
        sqrt_alphas_cumprod: √ᾱ_t, the scale of the answer at level t.
        sqrt_one_minus_alphas_cumprod: σ_t = √(1 − ᾱ_t), the standard deviation of the noise at level t.
        sqrt_recip_alphas_cumprod: 1/√ᾱ_t.
        sqrt_recipm1_alphas_cumprod: σ_t/√ᾱ_t.
        opt_step_size: η_t = β_t/σ_t, the step of the inner optimisation.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    opt_step_size: Tensor

    @property
    def levels(self) -> int:
        """Number of levels K."""
        return len(self.betas)

    @property
    def abar(self) -> Tensor:
        """ᾱ_t, (K,)."""
        return self.alphas_cumprod

    @property
    def sigma(self) -> Tensor:
        """σ_t, (K,)."""
        return self.sqrt_one_minus_alphas_cumprod

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Schedule:
        """The same schedule in another precision or on another device."""
        return replace(self, **{name: value.to(device, dtype) for name, value in self.buffers().items()})

    def buffers(self) -> dict[str, Tensor]:
        """The official buffer names and their tensors."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


BUFFER_NAMES = tuple(field.name for field in fields(Schedule))


def cosine_schedule(levels: int = 10, offset: float = 0.008) -> Schedule:
    """The schedule of every IRED matrix task, in float64.

    Args:
        levels: K, number of annealing levels (official default 10).
        offset: the small s of the cosine schedule.

    Returns:
        Constants of K levels, (K,) each.

    Source:
        Nichol & Dhariwal 2021, eq. 17; constants as in the official release (β clipped at 0.999).
    """
    steps = torch.linspace(0, levels, levels + 1, dtype=torch.float64)
    signal = torch.cos((steps / levels + offset) / (1 + offset) * math.pi / 2).square()
    signal = signal / signal[0]
    betas = (1 - signal[1:] / signal[:-1]).clamp(0, 0.999)
    abar = torch.cumprod(1 - betas, 0)
    return Schedule(
        betas=betas,
        alphas_cumprod=abar,
        sqrt_alphas_cumprod=abar.sqrt(),
        sqrt_one_minus_alphas_cumprod=(1 - abar).sqrt(),
        sqrt_recip_alphas_cumprod=(1 / abar).sqrt(),
        sqrt_recipm1_alphas_cumprod=(1 / abar - 1).sqrt(),
        opt_step_size=betas * (1 / (1 - abar)).sqrt(),
    )
