"""Shapes of an answer's spectrum, the same of errors without structure, and which solution is the nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.linalg import effective_rank, finite_rows

# Completions closer than this, relative to the right answer's entries, count as one.
ALIKE = 1e-3
# Distances below this, relative to the same, are rounding.
ROUNDING = 1e-6


def spectral_shape(matrices: Tensor, rank: int | None) -> dict[str, Tensor]:
    """How many singular values matter in each matrix, (…, n, m).

    Args:
        matrices: any number of leading axes.
        rank: r, beyond which energy is tail; None, or as large as the matrix, where there is no tail.

    Returns:
        (…,) each, NaN of a matrix that is zero or not finite: effective_rank, exp of the entropy of
        s/Σs; nuclear_ratio, ‖Y‖_*/‖Y‖_F in [1, √n]; tail_energy, Σ_{i>r} s_i²/Σ s_i², NaN without a tail.
    """
    flat, finite = finite_rows(matrices.flatten(0, -3))
    s = torch.linalg.svdvals(flat)
    s = (s / s[:, :1]).where(finite[:, None], torch.nan)
    energy = s.square().sum(-1)
    if rank is None or rank >= s.shape[1]:
        tail = torch.full_like(energy, torch.nan)
    else:
        tail = s[:, rank:].square().sum(-1) / energy
    shape = {"effective_rank": effective_rank(s), "nuclear_ratio": s.sum(-1) / energy.sqrt()}
    return {name: value.view(matrices.shape[:-2]) for name, value in (shape | {"tail_energy": tail}).items()}


def matched_errors(answers: Tensor, Y: Tensor, noise: Tensor) -> Tensor:
    """Right answers with errors as large as those of the answers, in isotropic directions.

    Args:
        answers: (K, B, n, m).
        Y: (B, n, m), right answers.
        noise: (B, D, n, m), standard normal.

    Returns:
        (D, K, B, n, m).
    """
    size = (answers - Y).norm(dim=(-2, -1), keepdim=True)
    directions = (noise / noise.norm(dim=(-2, -1), keepdim=True)).movedim(1, 0).unsqueeze(1)
    return Y + size * directions


def free_rms(difference: Tensor, free: Tensor) -> Tensor:
    """Root mean square over the free entries, (…, B) of (…, B, d) and (B, d); NaN where there is none."""
    return ((difference.square() * free).sum(-1) / free.sum(-1)).sqrt()


def pull(error: Tensor, displacement: Tensor, free: Tensor, alike: Tensor) -> Tensor:
    """Share of the way from the right answer to another solution, ⟨ŷ − y*, c − y*⟩/‖c − y*‖².

    1 at the other solution and 0 on average for an error without direction, however large.

    Args:
        error: ŷ − y*, (K, B, d).
        displacement: c − y*, (B, d).
        free: (B, d), entries that count.
        alike: (B,), where c and y* are one and the share is undefined.

    Returns:
        (K, B).
    """
    along = (free * error * displacement).sum(-1) / (free * displacement.square()).sum(-1)
    return along.masked_fill(alike, torch.nan)


def nearest(distances: Tensor, apart: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Which of C solutions an answer is nearest to, and by how much.

    Args:
        distances: (K, B, C), to each; NaN where there is no such solution.
        apart: (B, C, C), between them; those within `ALIKE` share the indicator.
        size: (B,), RMS entry of the right answer.

    Returns:
        Shares, (K, B, C), summing to 1, and ln of the distance to the nearest other solution over that to the
        nearest, (K, B). NaN where fewer than two solutions differ.
    """
    exists = ~distances.isnan()
    distances = distances.maximum(ROUNDING * size[:, None]).masked_fill(~exists, torch.inf)
    best, index = distances.min(-1)
    together = (apart <= ALIKE * size[:, None, None]).expand(len(distances), -1, -1, -1)
    index = index[..., None, None].expand(-1, -1, 1, distances.shape[-1])
    winners = together.gather(2, index).squeeze(2) & exists
    second = distances.masked_fill(winners, torch.inf).amin(-1)
    open_ = second.isfinite()
    shares = winners.to(distances) / winners.sum(-1, keepdim=True)
    shares = shares.where(open_[..., None] & exists, torch.nan)
    return shares, (second / best).log().where(open_, torch.nan)
