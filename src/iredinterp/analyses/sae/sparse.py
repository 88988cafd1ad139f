"""The sparse part of a training step: which latents a batch keeps, and sums over those alone.

At k of m latents in use, the decoder and the gradients of all weights need k/m of the dense work.
`embedding_bag` sums gathered rows without storing them: rows of W_dec by vector decode, rows of x by latent
give the gradients. Nothing in it depends on the order of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """Sparse codes of a batch, as N pairs of a vector and a latent in order of the vectors.

    Their number is known beforehand, so the host need not wait for a GPU to count them: where fewer entries
    than wanted can be used, the pairs left over have the value 0.

    Attributes:
        rows: (N,), positions in the batch, ascending.
        latents: (N,), at least 0 and less than m.
        values: (N,), 0 where the latent is not in use.
        shape: (B, m).
    """

    rows: Tensor
    latents: Tensor
    values: Tensor
    shape: tuple[int, int]

    def dense(self) -> Tensor:
        """Codes (B, m)."""
        return self.values.new_zeros(self.shape).index_put((self.rows, self.latents), self.values)

    def used(self) -> Tensor:
        """(m,), whether any vector of the batch uses a latent."""
        times = torch.zeros(self.shape[1], dtype=torch.long, device=self.latents.device)
        return times.index_add_(0, self.latents, (self.values != 0).long()) > 0

    @cached_property
    def by_row(self) -> Tensor:
        """B + 1 offsets: where the pairs of each vector begin."""
        return _offsets(self.rows, self.shape[0])

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The order that sorts the pairs by latent (N,), and m + 1 offsets into it."""
        latents, order = self.latents.sort(stable=True)
        return order, _offsets(latents, self.shape[1])


def top_k(entries: Tensor, k: int, signed: bool = False) -> Codes:
    """The k largest positive entries of every row, or the k largest in magnitude.

    Args:
        entries: (B, m).
        k: per row; rows with fewer positive entries use those.
        signed: by magnitude.
    """
    largest, latents = (entries.abs() if signed else entries).topk(k, dim=-1, sorted=False)
    values = entries.gather(-1, latents) if signed else largest.relu()
    rows = torch.arange(len(entries), device=entries.device).repeat_interleave(k)
    return Codes(rows, latents.flatten(), values.flatten(), tuple(entries.shape))


def batch_top_k(entries: Tensor, k: int, guess: float = 0.0) -> Codes:
    """The k·B largest positive entries of a batch.

    Args:
        entries: (B, m).
        k: on average per row.
        guess: a positive number that the smallest of them is likely to exceed, or 0 for none. The result does
            not depend on it, but a good guess leaves few entries to sort. It makes the host wait for a GPU.
    """
    wanted = k * len(entries)
    flat = entries.flatten()
    place = (flat > guess).nonzero().squeeze(1) if guess > 0 else flat[:0].long()
    if len(place) >= wanted:
        place = place[flat[place].topk(wanted, sorted=False).indices]
    else:
        place = flat.topk(wanted, sorted=False).indices
    place = place.sort().values
    width = entries.shape[1]
    return Codes(place // width, place % width, flat[place].relu(), tuple(entries.shape))


def decoded(W_dec: Tensor, codes: Codes) -> Tensor:
    """The product z W_dec, (B, d), of codes z and atoms (m, d)."""
    return _gathered_sums(codes.latents, W_dec, codes.by_row, codes.values)


def gradients(
    parameters: dict[str, Tensor], centred: Tensor, codes: Codes, slope: Tensor
) -> dict[str, Tensor]:
    """Gradients of a loss that depends on the parameters through z W_dec alone.

    With G = ∂loss/∂(z W_dec) and δ = G W_decᵀ where z is not 0, elsewhere 0, they are zᵀG for W_dec,
    δᵀ(x − b_dec) for W_enc, Σδ over the batch for b_enc, and −W_encᵀ Σδ for b_dec.

    Args:
        parameters: W_enc (m, d), b_enc (m,), W_dec (m, d), b_dec (d,).
        centred: (B, d), x − b_dec.
        codes: z, whose values in use are entries of (x − b_dec) W_encᵀ + b_enc; the choice of latents counts
            as constant.
        slope: (B, d), G.

    Returns:
        For each parameter one of its shape.
    """
    order, offsets = codes.by_latent
    rows = codes.rows[order]
    slope_of_values = _gathered_products(codes, parameters["W_dec"], slope) * (codes.values != 0)
    b_enc = _gathered_sums(order, slope_of_values[:, None], offsets).squeeze(1)
    return {
        "W_enc": _gathered_sums(rows, centred, offsets, slope_of_values[order]),
        "b_enc": b_enc,
        "W_dec": _gathered_sums(rows, slope, offsets, codes.values[order]),
        "b_dec": -(b_enc @ parameters["W_enc"]),
    }


def pre_activations(parameters: dict[str, Tensor], centred: Tensor) -> Tensor:
    """(x − b_dec) W_encᵀ + b_enc, (B, m), of x − b_dec (B, d)."""
    return F.linear(centred, parameters["W_enc"], parameters["b_enc"])


def exceeds(entries: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where an entry exceeds its threshold, else 0, with a gradient for the threshold.

    Args:
        entries: (B, m).
        threshold: (m,).
        bandwidth: width of the rectangle that stands for the step's slope.

    Returns:
        (B, m).

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


def _gathered_sums(index: Tensor, table: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Row i: Σ over n from offsets[i] to offsets[i + 1] of weights[n] · table[index[n]]."""
    return F.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _gathered_products(codes: Codes, atoms: Tensor, slope: Tensor) -> Tensor:
    """slope[row] · atoms[latent] of every pair, (N,)."""
    # What autograd calls for embedding_bag; called directly, it needs no graph and no sums before it.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        slope, atoms, codes.latents, codes.by_row, codes.rows, mode=0
    )


def _offsets(ascending: Tensor, groups: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(groups + 1, device=ascending.device))
