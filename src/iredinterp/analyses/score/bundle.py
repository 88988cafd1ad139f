"""The normal bundle of the answers, seen by the singular values of many scores around one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.energy import Energy, map_chunks
from iredinterp.points import normal_draws, q_sample
from iredinterp.tables import Metric, tensor_column, tidy

SHARPEST = 0
NO_GRADIENT = "the gradient is zero or not finite"


def normal_bundle_table(
    energy: Energy, keys: pa.Table, problems: pa.Table, scores: int, seed: int, chunk: int
) -> pa.Table:
    """Normal dimension, its gap and the singular values of scores, at fresh q_samples of answers.

    Args:
        energy: the landscape.
        keys: a row per answer, at the sharpest level.
        problems: the problems they belong to.
        scores: noised copies per dimension.
        seed: of their noise.
        chunk: points in memory at once.
    """
    rows = pc.index_in(keys["problem_id"], problems["problem_id"].combine_chunks())
    ids, m = keys["problem_id"].to_pylist(), scores * energy.dim_y
    of_problems = problems.take(rows)
    x, y_star = (
        tensor_column(of_problems, name).flatten(1).to(energy.device, energy.dtype)
        for name in ("x", "y_star")
    )
    t = torch.full((len(ids),), SHARPEST, device=x.device)

    def measure(x: Tensor, y_star: Tensor, t: Tensor, which: Tensor) -> Tensor:
        here = [ids[row] for row in which.tolist()]
        noise = normal_draws(seed, "q_sample", here, 1, m * energy.dim_y).unflatten(2, (m, -1))[:, 0]
        return score_spectrum(energy, x, y_star, t, noise.to(y_star))

    # As many numbers at once as that many Hessians hold.
    together = max(1, chunk // scores)
    spectrum = torch.cat(list(map_chunks(measure, (x, y_star, t, torch.arange(len(ids))), together)))
    position, drop = largest_gap(spectrum)
    return tidy(
        keys,
        [
            Metric("normal_dimension", position, reason=NO_GRADIENT),
            Metric("normal_gap", drop, reason=NO_GRADIENT),
            Metric("score_singular_value", spectrum, reason=NO_GRADIENT),
        ],
    )


def score_spectrum(energy: Energy, x: Tensor, y_star: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Singular values of ∇_yE at noised copies of an answer, one copy per row, over √m.

    Args:
        energy: the landscape.
        x: (B, d_x).
        y_star: answers, (B, d).
        t: (B,).
        noise: (B, m, d), m ≥ d.

    Returns:
        (B, d), descending, float64; NaN where a gradient is not finite.
    """
    m = noise.shape[1]
    x, y_star, t = (part.repeat_interleave(m, 0) for part in (x, y_star, t))
    scores = energy.gradient(x, q_sample(y_star, t, noise.flatten(0, 1), energy.schedule), t)
    scores = scores.double().unflatten(0, (-1, m))
    finite = scores.isfinite().all(-1).all(-1)
    spectrum = torch.linalg.svdvals(scores.where(finite[:, None, None], 0)) / m**0.5
    return spectrum.where(finite.unsqueeze(1), torch.nan)


def largest_gap(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Where descending values drop furthest, the last of them to zero.

    Scores around a point of a manifold lie, at a sharp level, in its normal space: the position of the gap is
    the dimension of that space, and d says that the answers near it are that point alone.

    Args:
        spectrum: (B, d), descending, none negative.

    Returns:
        Position, counted from 1, and the drop over the largest value, each (B,); NaN where all are zero or
        one is NaN.

    Source:
        Stanczuk et al. 2024 (arXiv:2212.12611), algorithm 1, which leaves the drop to zero out.
    """
    drops = -pad(spectrum, (0, 1)).diff(dim=1)
    widest, position = drops.max(1)
    known = spectrum[:, 0] > 0
    return (position + 1).to(spectrum).where(known, torch.nan), (widest / spectrum[:, 0]).where(
        known, torch.nan
    )
