"""Reconstruction in training: a dense encoder, then only the active latents, forward and backward.

At k of m latents active, the decoder and both weight gradients need k/m of the dense work. `embedding_bag`
sums gathered rows without storing them. Summing rows of x by latent instead of rows of W_dec by vector gives
the gradients, so one kernel serves forward and backward; nothing in it depends on the order of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Active:
    """Which latents are in use for which vectors, as N pairs in order of the vectors.

    Attributes:
        rows: (N,), positions in the batch, ascending.
        latents: (N,), at least 0 and less than m.
        shape: (B, m).
    """

    rows: Tensor
    latents: Tensor
    shape: tuple[int, int]

    def dense(self, values: Tensor) -> Tensor:
        """Codes (B, m) with values (N,) at the pairs."""
        return values.new_zeros(self.shape).index_put((self.rows, self.latents), values)

    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order that sorts the pairs by latent (N,), the rows in that order, and m + 1 offsets."""
        order = self.latents.argsort(stable=True)
        return order, self.rows[order], _offsets(self.latents, self.shape[1])


def top_k(entries: Tensor, k: int, signed: bool = False) -> Active:
    """The k largest positive entries of every row, or the k largest in magnitude.

    Args:
        entries: (B, m).
        k: per row; rows with fewer positive entries keep those.
        signed: by magnitude.
    """
    values, latents = (entries.abs() if signed else entries).topk(k, dim=-1, sorted=False)
    rows = torch.arange(len(entries), device=entries.device).repeat_interleave(k)
    in_use = (values > 0).flatten()
    return Active(rows[in_use], latents.flatten()[in_use], tuple(entries.shape))


def batch_top_k(entries: Tensor, k: int, guess: float = 0.0) -> Active:
    """The k·B largest positive entries of a batch.

    Args:
        entries: (B, m).
        k: on average per row.
        guess: a number that the smallest of them is likely to exceed. The result does not depend on it, but
            a good guess leaves few entries to sort.
    """
    wanted = k * len(entries)
    flat = entries.flatten()
    place = (flat > max(guess, 0.0)).nonzero().squeeze(1)
    if len(place) < wanted and guess > 0:
        place = (flat > 0).nonzero().squeeze(1)
    if len(place) > wanted:
        place = place[flat[place].topk(wanted, sorted=False).indices.sort().values]
    width = entries.shape[1]
    return Active(place // width, place % width, tuple(entries.shape))


def dense_reconstruction(parameters: dict[str, Tensor], x: Tensor, active: Active) -> tuple[Tensor, Tensor]:
    """Values (N,) of the active latents and x̂ (B, d), in dense products throughout; the reference.

    Args:
        parameters: W_enc (m, d), b_enc (m,), W_dec (m, d), b_dec (d,).
        x: (B, d), the input, which gets no gradient.
        active: latents in use.
    """
    entries = pre_activations(parameters, x)
    values = entries[active.rows, active.latents]
    return values, active.dense(values) @ parameters["W_dec"] + parameters["b_dec"]


def sparse_reconstruction(
    parameters: dict[str, Tensor], x: Tensor, active: Active, entries: Tensor
) -> tuple[Tensor, Tensor]:
    """The same without another dense product, in values and in gradients of the parameters.

    Args:
        parameters: as in `dense_reconstruction`.
        x: (B, d).
        active: latents in use.
        entries: (B, m), what `pre_activations` gives for x; no gradient flows through it.
    """
    known = entries[active.rows, active.latents]
    bias = parameters["b_enc"] - parameters["W_enc"] @ parameters["b_dec"]
    values = _Encode.apply(x, parameters["W_enc"], bias, known, active)
    return values, _Decode.apply(values, parameters["W_dec"], active) + parameters["b_dec"]


def pre_activations(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """(x − b_dec) W_encᵀ + b_enc, (B, m)."""
    return F.linear(x - parameters["b_dec"], parameters["W_enc"], parameters["b_enc"])


def exceeds(entries: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where an entry exceeds its threshold, else 0, with a gradient for the threshold.

    Args:
        entries: (B, m).
        threshold: (m,).
        bandwidth: width of the rectangle that stands for the step's slope.

    Source:
        Rajamanoharan et al. 2024 (arXiv:2407.14435), straight-through estimator of the Heaviside step.
    """
    return _Step.apply(entries, threshold, bandwidth)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, entries, threshold, bandwidth):
        ctx.save_for_backward(entries, threshold)
        ctx.bandwidth = bandwidth
        return (entries > threshold).to(entries.dtype)

    @staticmethod
    def backward(ctx, grad):
        entries, threshold = ctx.saved_tensors
        near = (entries - threshold).abs() < ctx.bandwidth / 2
        return None, -(grad * near).sum(0) / ctx.bandwidth, None


class _Encode(torch.autograd.Function):
    """Entries of x W_encᵀ + bias at the active pairs, known beforehand; gradients of W_enc and bias."""

    @staticmethod
    def forward(ctx, x, W_enc, bias, known, active):
        ctx.save_for_backward(x)
        ctx.active = active
        return known.clone()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        order, rows, offsets = ctx.active.by_latent()
        weights = grad[order]
        bias = torch.zeros(ctx.active.shape[1], dtype=grad.dtype, device=grad.device)
        bias = bias.index_add(0, ctx.active.latents, grad)
        return None, _gathered_sums(rows, x, offsets, weights), bias, None, None


class _Decode(torch.autograd.Function):
    """Σ over the active pairs of value · row of W_dec, (B, d)."""

    @staticmethod
    def forward(ctx, values, W_dec, active):
        ctx.save_for_backward(values, W_dec)
        ctx.active = active
        return _gathered_sums(active.latents, W_dec, _offsets(active.rows, active.shape[0]), values)

    @staticmethod
    def backward(ctx, grad):
        values, W_dec = ctx.saved_tensors
        active = ctx.active
        order, rows, offsets = active.by_latent()
        grad = grad.contiguous()
        with torch.enable_grad():
            # embedding_bag knows how to differentiate by its weights without storing gathered rows.
            weights = values.detach().requires_grad_()
            forward = _gathered_sums(
                active.latents, W_dec.detach(), _offsets(active.rows, active.shape[0]), weights
            )
            (grad_values,) = torch.autograd.grad(forward, weights, grad)
        return grad_values, _gathered_sums(rows, grad, offsets, values[order]), None


def _gathered_sums(index: Tensor, table: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Row i: Σ over n from offsets[i] to offsets[i + 1] of weights[n] · table[index[n]]."""
    return F.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _offsets(labels: Tensor, groups: int) -> Tensor:
    return F.pad(torch.bincount(labels, minlength=groups).cumsum(0), (1, 0))
