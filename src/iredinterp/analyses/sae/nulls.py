"""Data without features: what a sparse autoencoder finds here, it finds in anything.

Train and report on these exactly as on the real vectors; dictionaries without training are in
`iredinterp.analyses.sae.dictionaries`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.analyses.sae.model import checked_vectors
from iredinterp.errors import ConfigError


def gaussian_like(x: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """Independent Gaussian vectors with each level's mean and covariance: second moments and nothing else.

    Args:
        x: (N, d), float32 or float64.
        t: (N,), integer levels.
        generator: source of randomness.

    Returns:
        (N, d), row by row at the levels `t`.

    Raises:
        ConfigError: x is not finite, or t does not fit it.
    """

    def draw(rows: Tensor) -> Tensor:
        mean = rows.mean(0)
        variances, axes = torch.linalg.eigh((rows - mean).mT @ (rows - mean) / len(rows))
        drawn = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
        return mean + drawn * variances.clamp(min=0).sqrt() @ axes.mT

    return _by_level(x, t, draw)


def shuffled_coordinates(x: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """Each coordinate permuted over the vectors of its level: marginals and nothing else.

    Args:
        x: (N, d), float32 or float64.
        t: (N,), integer levels.
        generator: source of randomness.

    Returns:
        (N, d), row by row at the levels `t`.

    Raises:
        ConfigError: x is not finite, or t does not fit it.
    """

    def shuffle(rows: Tensor) -> Tensor:
        return rows.gather(0, torch.rand(rows.shape, generator=generator).argsort(0))

    return _by_level(x, t, shuffle)


def problem_permutation(problem: Tensor, generator: torch.Generator) -> Tensor:
    """Rows that give every problem the values of another: `values[rows]` is the null of permuted labels.

    Problems exchange their rows as blocks, so what the vectors of one problem share stays shared, and only
    with problems of as many rows. The rows of a problem keep their order: sort all problems alike.

    Args:
        problem: (N,), integer problem ids.
        generator: source of randomness.

    Returns:
        (N,), a permutation.

    Raises:
        ConfigError: no two problems have equally many vectors.

    Source:
        Whole-block exchangeability, Winkler et al. 2014 (NeuroImage 92).
    """
    which, counts = torch.unique(problem, return_inverse=True, return_counts=True)[1:]
    if len(counts.unique()) == len(counts):
        raise ConfigError(
            "no two problems have equally many vectors, so none can exchange labels; "
            "keep the same number of vectors of every problem"
        )
    giver = torch.arange(len(counts))
    for count in counts.unique():
        alike = (counts == count).nonzero().flatten()
        giver[alike] = alike[torch.randperm(len(alike), generator=generator)]
    grouped = which.argsort(stable=True)
    start = counts.cumsum(0) - counts
    within = torch.arange(len(problem)) - start.repeat_interleave(counts)
    rows = torch.empty_like(grouped)
    rows[grouped] = grouped[start[giver].repeat_interleave(counts) + within]
    return rows


def _by_level(x: Tensor, t: Tensor, change) -> Tensor:
    x = checked_vectors(x)
    if t.shape != (len(x),):
        raise ConfigError(f"t holds one level per vector; found {tuple(t.shape)} for {len(x)} vectors")
    changed = torch.empty_like(x)
    for level in torch.unique(t):
        rows = t == level
        changed[rows] = change(x[rows].double()).to(x.dtype)
    return changed
