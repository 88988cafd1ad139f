"""What decides the training of sparse autoencoders, but for seeds and data."""

from __future__ import annotations

from dataclasses import dataclass

from iredinterp.analyses.sae.model import check_activation
from iredinterp.errors import ConfigError


@dataclass(frozen=True)
class SAERecipe:
    """Everything that decides a run but its seeds and its data.

    Attributes:
        width: latents m.
        activation: one of `iredinterp.analyses.sae.model.ACTIVATIONS`.
        k: one autoencoder per seed and value; latents in use per vector, for all but relu_l1.
        l1: one autoencoder per seed and value; coefficient of ‖z‖₁, for relu_l1.
        steps: optimiser steps.
        batch: vectors per step.
        learning_rate: between linear warm-up and linear decay to 0.
        warmup: share of the steps.
        decay: share of the steps.
        dead_after: vectors without use after which a latent counts as dead and gets the auxiliary loss.
        per_level: centre and scale every level by itself, not all together.
        validation: share of the problems held out.
        evaluated: vectors per split that the history is measured on, at most.
        order_seed: of the split and of the order of the vectors.
        frozen_decoder: leave the atoms the random unit vectors they start as, and train the rest; a null
            of arXiv:2602.14111.
    """

    width: int
    activation: str = "batchtopk"
    k: tuple[int, ...] = ()
    l1: tuple[float, ...] = ()
    steps: int = 3000
    batch: int = 1024
    learning_rate: float = 2e-3
    warmup: float = 0.05
    decay: float = 0.2
    dead_after: int = 250_000
    per_level: bool = True
    validation: float = 0.1
    evaluated: int = 4096
    order_seed: int = 0
    frozen_decoder: bool = False

    def __post_init__(self):
        wanted, other = ("l1", "k") if self.activation == "relu_l1" else ("k", "l1")
        for k in self.k or (None,) if wanted == "l1" else self.k:
            check_activation(self.activation, k, self.width)
        if not getattr(self, wanted) or getattr(self, other):
            raise ConfigError(f"{self.activation} takes values of {wanted} and none of {other}")
        if min(self.steps, self.batch, self.evaluated, self.dead_after) < 1:
            raise ConfigError("steps, batch, evaluated and dead_after are at least 1")
        if not 0 < self.validation < 1 or min(self.warmup, self.decay) < 0 or self.warmup + self.decay > 1:
            raise ConfigError(
                "validation lies between 0 and 1; warmup and decay are shares of at most 1 together"
            )

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The values of k or of l1."""
        return self.k or self.l1

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        warm = (step + 1) / max(1.0, self.warmup * self.steps)
        cool = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, warm, cool)
