"""One sparse autoencoder in training: its parameters, its loss and the gradients of it.

For topk, abstopk and batchtopk the gradients are written out and cost sums over the latents in use; those of
the other activations, and of all in dense products, come from autograd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.model import (
    PARAMETERS,
    THRESHOLDED,
    SparseAutoencoder,
    Standardisation,
    keep_largest,
)
from iredinterp.analyses.sae.recipe import SAERecipe
from iredinterp.analyses.sae.sparse import (
    Codes,
    batch_top_k,
    decoded,
    exceeds,
    gradients,
    pre_activations,
    top_k,
)

AUXILIARY_WEIGHT = 1 / 32
AUXILIARY_LATENTS = 32
THRESHOLD_MEMORY = 0.95
# Of the running threshold: where to look first for a batch's largest entries.
CAUTION = 0.9
# Width of the window in which an entry moves its threshold, and the first threshold, in units of s_t.
BANDWIDTH = 0.5
FIRST_THRESHOLD = 0.5


@dataclass
class Learner:
    """One autoencoder in training.

    Attributes:
        recipe: how it is trained.
        seed: of its first weights.
        sparsity: its value of k or l1.
        dense: take gradients by autograd of dense products, the reference.
        parameters: W_enc, b_enc, W_dec, b_dec.
        threshold: (m,).
        unused: (m,), vectors seen since a latent was last in use.
    """

    recipe: SAERecipe
    seed: int
    sparsity: float
    dense: bool
    parameters: dict[str, Tensor]
    threshold: Tensor
    unused: Tensor

    @classmethod
    def initial(
        cls,
        recipe: SAERecipe,
        seed: int,
        sparsity: float,
        dense: bool,
        first: SparseAutoencoder,
        device: torch.device,
    ) -> Learner:
        """Start from the weights of an autoencoder; the other arguments are those of the class."""
        parameters = {name: value.to(device).requires_grad_() for name, value in first.parameters.items()}
        parameters["W_dec"].requires_grad_(not recipe.frozen_decoder)
        jumps = recipe.activation == "jumprelu"
        threshold = torch.full_like(parameters["b_enc"], FIRST_THRESHOLD if jumps else 0.0)
        unused = torch.zeros(recipe.width, dtype=torch.long, device=device)
        return cls(recipe, seed, sparsity, dense, parameters, threshold.requires_grad_(jumps), unused)

    @property
    def trained(self) -> list[Tensor]:
        """The tensors that an optimiser moves."""
        return [tensor for tensor in self.tensors().values() if tensor.requires_grad]

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by name, not copied."""
        return {**self.parameters, "threshold": self.threshold, "unused": self.unused}

    def autoencoder(self, standardisation: Standardisation | None) -> SparseAutoencoder:
        """What is learnt so far, on vectors that `standardisation` is still to be applied to."""
        activation = self.recipe.activation
        values = {name: self.parameters[name].detach().clone() for name in PARAMETERS}
        k = None if activation == "relu_l1" else int(self.sparsity)
        threshold = self.threshold.detach().clone() if activation in THRESHOLDED else None
        scaled = None if standardisation is None else standardisation.to(self.threshold.device)
        return SparseAutoencoder(activation, **values, k=k, threshold=threshold, standardisation=scaled)

    def backward(self, x: Tensor) -> Tensor:
        """Set the gradients of the mean loss of a batch.

        Notes which latents are in use, and moves the threshold of batchtopk.

        Args:
            x: (B, d), standardised.

        Returns:
            The loss, (), without a graph.
        """
        by_autograd = self.dense or self.recipe.activation in ("relu_l1", "jumprelu")
        loss = self._by_autograd(x) if by_autograd else self._in_closed_form(x)
        if not self.recipe.frozen_decoder:
            _project(self.parameters["W_dec"])
        return loss

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring the atoms back to norm 1."""
        if not self.recipe.frozen_decoder:
            atoms = self.parameters["W_dec"]
            F.normalize(atoms, dim=1, out=atoms)

    @torch.no_grad()
    def _in_closed_form(self, x: Tensor) -> Tensor:
        centred = x - self.parameters["b_dec"]
        entries = pre_activations(self.parameters, centred)
        codes = self._codes(entries)
        if self.recipe.activation == "batchtopk":
            self._follow(codes.values)
        residual = centred - decoded(self.parameters["W_dec"], codes)
        slope = residual * (-2 / len(x))
        gradient = gradients(self.parameters, centred, codes, slope)
        gradient["b_dec"] += slope.sum(0)
        loss = residual.square().sum() / len(x)
        dead = self._dead(codes.used(), len(x))
        if len(dead):
            extra, more = self._auxiliary(centred, residual, entries, dead)
            loss += extra
            gradient = {name: gradient[name] + more[name] for name in gradient}
        for name, tensor in self.parameters.items():
            tensor.grad = gradient[name] if tensor.requires_grad else None
        return loss

    def _auxiliary(
        self, centred: Tensor, residual: Tensor, entries: Tensor, dead: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """How badly the best dead latents explain what the others leave over, and its gradients."""
        signed = self.recipe.activation == "abstopk"
        best = top_k(entries[:, dead], min(AUXILIARY_LATENTS, len(dead)), signed)
        best = replace(best, latents=dead[best.latents], shape=tuple(entries.shape))
        missed = residual - decoded(self.parameters["W_dec"], best)
        weight = _auxiliary_weight(residual)
        slope = -2 * weight * missed
        return weight * missed.square().sum(), gradients(self.parameters, centred, best, slope)

    def _codes(self, entries: Tensor) -> Codes:
        k, activation = int(self.sparsity), self.recipe.activation
        if activation != "batchtopk":
            return top_k(entries, k, signed=activation == "abstopk")
        return batch_top_k(entries, k, CAUTION * float(self.threshold[0]) if entries.is_cpu else 0.0)

    def _by_autograd(self, x: Tensor) -> Tensor:
        signed = self.recipe.activation == "abstopk"
        centred = x - self.parameters["b_dec"]
        entries = pre_activations(self.parameters, centred)
        codes, penalty = self._dense_codes(entries)
        residual = centred - codes @ self.parameters["W_dec"]
        loss = residual.square().sum(-1).mean() + penalty
        dead = self._dead((codes != 0).any(0), len(x))
        if self.recipe.activation != "relu_l1" and len(dead):
            best = keep_largest(entries[:, dead], min(AUXILIARY_LATENTS, len(dead)), signed)
            target = residual.detach()
            missed = target - best @ self.parameters["W_dec"][dead]
            loss = loss + _auxiliary_weight(target) * missed.square().sum()
        loss.backward()
        return loss.detach()

    def _dense_codes(self, entries: Tensor) -> tuple[Tensor, Tensor | float]:
        """Codes (B, m) and what the loss adds for their sparsity."""
        activation = self.recipe.activation
        if activation == "relu_l1":
            codes = entries.relu()
            return codes, self.sparsity * codes.sum(-1).mean()
        if activation == "jumprelu":
            codes = entries.relu()
            in_use = exceeds(codes, self.threshold, BANDWIDTH)
            d = self.parameters["b_dec"].numel()
            return codes * in_use, d * (in_use.sum(-1).mean() / self.sparsity - 1).square()
        k = int(self.sparsity)
        if activation == "batchtopk":
            codes = keep_largest(entries.reshape(1, -1), k * len(entries), signed=False).view_as(entries)
            self._follow(codes.detach())
            return codes, 0.0
        return keep_largest(entries, k, signed=activation == "abstopk"), 0.0

    def _follow(self, values: Tensor) -> None:
        """Move the threshold towards the smallest value in use; the first batch sets it."""
        smallest = torch.where(values > 0, values, torch.inf).min()
        now = self.threshold[0]
        moved = torch.where(now == 0, smallest, now.lerp(smallest, 1 - THRESHOLD_MEMORY))
        self.threshold.copy_(torch.where(smallest.isinf(), now, moved))

    def _dead(self, used: Tensor, count: int) -> Tensor:
        """The latents without use for so long that they count as dead, after a batch of `count` vectors."""
        self.unused.add_(count).masked_fill_(used, 0)
        return (self.unused >= self.recipe.dead_after).nonzero().squeeze(1)


def _auxiliary_weight(residual: Tensor) -> Tensor:
    """Of ‖residual − what dead latents explain of it‖², so that leaving all unexplained costs d/32."""
    return AUXILIARY_WEIGHT * residual.shape[1] / residual.square().sum()


@torch.no_grad()
def _project(atoms: Tensor) -> None:
    """Take out of the atoms' gradients what would only change their norms."""
    atoms.grad.addcmul_(atoms, (atoms.grad * atoms).sum(1, keepdim=True), value=-1)
