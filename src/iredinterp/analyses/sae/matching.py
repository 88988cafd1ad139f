"""Do two trainings find the same atoms? One-to-one matching, next to that of random dictionaries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from iredinterp.errors import ConfigError


@dataclass(frozen=True)
class Matching:
    """The one-to-one matching of two dictionaries with the largest sum of cosines.

    Attributes:
        first: (k,), rows of the first dictionary, ascending; k is the size of the smaller.
        second: (k,), rows of the second.
        cosine: (k,), of each pair, its magnitude if signs do not matter.
    """

    first: Tensor
    second: Tensor
    cosine: Tensor

    @property
    def mean(self) -> float:
        """Mean cosine of the pairs; NaN where there are none."""
        return float(self.cosine.mean())


def match_atoms(first: Tensor, second: Tensor, signed: bool = False) -> Matching:
    """Match atoms by cosine (Hungarian algorithm).

    Args:
        first: (m, d), no row zero; leave out latents that are never active, whose atoms are arbitrary.
        second: (m′, d).
        signed: whether codes have signs; an atom and its negative are then the same.

    Raises:
        ConfigError: atoms of different dimensions.

    Source:
        Pairwise mean correlation coefficient (PW-MCC), arXiv:2505.20254.
    """
    if first.shape[1] != second.shape[1]:
        raise ConfigError(
            f"atoms of dimensions {first.shape[1]} and {second.shape[1]} cannot be matched; "
            "compare autoencoders of the same vectors"
        )
    cosines = F.normalize(first.double(), dim=1) @ F.normalize(second.double(), dim=1).mT
    cosines = cosines.abs() if signed else cosines
    rows, columns = (
        torch.from_numpy(index) for index in linear_sum_assignment(cosines.numpy(force=True), maximize=True)
    )
    return Matching(rows, columns, cosines.cpu()[rows, columns])


def chance_matching(
    first: int, second: int, d: int, generator: torch.Generator, signed: bool = False, draws: int = 1
) -> float:
    """Mean cosine of matched atoms of two independent, uniformly random dictionaries.

    Args:
        first: atoms of the first.
        second: atoms of the second.
        d: dimension of the atoms.
        generator: source of randomness.
        signed: as in `match_atoms`.
        draws: pairs of dictionaries; one suffices for many atoms.

    Returns:
        NaN where a dictionary is empty.
    """
    means = [
        match_atoms(*(torch.randn(size, d, generator=generator) for size in (first, second)), signed).mean
        for _ in range(draws)
    ]
    return sum(means) / draws
