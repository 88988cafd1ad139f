"""Whether two circuits share more units than chance, which shares what their sizes force them to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor

from iredinterp.errors import ConfigError


class Overlap(NamedTuple):
    """Jaccard index of every two circuits, each (K, K), beside random circuits of the same sizes per layer.

    Attributes:
        jaccard: |C ∩ C′|/|C ∪ C′|; NaN where both are empty.
        expected: its mean over random circuits.
        low, high: smallest and largest value within the middle 95 % of random circuits.
        p: two-sided, twice the smaller tail and at most 1.
    """

    jaccard: Tensor
    expected: Tensor
    low: Tensor
    high: Tensor
    p: Tensor


def jaccard(first: Tensor, second: Tensor) -> Tensor:
    """|C ∩ C′|/|C ∪ C′|, all layers together.

    Args:
        first, second: bool, (…, L, h), broadcasting against each other.

    Returns:
        (…,), NaN where both are empty.
    """
    shared, union = (joined.sum((-2, -1)).double() for joined in (first & second, first | second))
    return shared / torch.where(union > 0, union, torch.nan)


def shared_units(first: Sequence[int], second: Sequence[int], hidden: int) -> np.ndarray:
    """Probabilities that two random circuits share 0, 1, … units.

    Args:
        first, second: units that either keeps in each layer, drawn without replacement from the layer.
        hidden: h, units of a layer.

    Returns:
        Probabilities by number of shared units, from 0 on.

    Source:
        Hypergeometric within a layer; the sum over independent layers has the convolution of their laws.
    """
    laws = [
        hypergeom.pmf(np.arange(min(ours, theirs) + 1), hidden, ours, theirs)
        for ours, theirs in zip(first, second, strict=True)
    ]
    return reduce(np.convolve, laws)


def overlap(circuits: Tensor) -> Overlap:
    """Every two of a stack of circuits, say of the levels of one network.

    Args:
        circuits: bool, (K, L, h); one layer alone is `circuits[:, l : l + 1]`.

    Raises:
        ConfigError: not a stack of masks.
    """
    if circuits.ndim != 3 or circuits.dtype != torch.bool:
        raise ConfigError(
            f"circuits: expected bool (K, L, h), found {circuits.dtype} {tuple(circuits.shape)}"
        )
    count, sizes, hidden = len(circuits), circuits.sum(-1).tolist(), circuits.shape[-1]
    shared = (circuits[:, None] & circuits).sum((-2, -1)).tolist()
    chance = torch.empty(4, count, count, dtype=torch.float64)
    for i, j in combinations_with_replacement(range(count), 2):
        row = _beside_chance(shared[i][j], sizes[i], sizes[j], hidden)
        chance[:, i, j] = chance[:, j, i] = torch.tensor(row, dtype=torch.float64)
    return Overlap(jaccard(circuits[:, None], circuits), *chance)


def expected_jaccard(first: Sequence[int], second: Sequence[int], hidden: int) -> float:
    """Mean Jaccard index of two random circuits; arguments as in `shared_units`. NaN where both are empty."""
    law = shared_units(first, second, hidden)
    return float(law @ _jaccard_of(np.arange(len(law)), first, second))


def _beside_chance(
    shared: int, first: Sequence[int], second: Sequence[int], hidden: int
) -> tuple[float, float, float, float]:
    law = shared_units(first, second, hidden)
    values = _jaccard_of(np.arange(len(law)), first, second)
    below, above = law.cumsum(), law[::-1].cumsum()[::-1]
    # Smallest and largest number that leave at most 2.5 % beyond them, rounding aside.
    low, high = np.argmax(below > 0.025 + 1e-12), len(law) - 1 - np.argmax(above[::-1] > 0.025 + 1e-12)
    p = min(1.0, 2 * min(below[shared], above[shared]))
    return law @ values, values[low], values[high], p


def _jaccard_of(shared: np.ndarray, first: Sequence[int], second: Sequence[int]) -> np.ndarray:
    union = sum(first) + sum(second) - shared
    return np.divide(shared, union, out=np.full(len(shared), np.nan), where=union > 0)
