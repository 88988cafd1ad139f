"""What a comparison of two landscapes may be asked to do, checked where it enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iredinterp.ranges import require_least, require_levels, require_positive

LEAST = {
    "count": 1,
    "vectors": 1,
    "starts": 1,
    "search_steps": 1,
    "images": 3,
    "path_steps": 1,
    "chunk": 1,
}
POSITIVE = ("radius", "reach", "tolerance")


@dataclass(frozen=True)
class Settings:
    """How two landscapes are compared.

    Args:
        count: problems looked at, the first ones.
        levels: t looked at.
        vectors: m of the eigenspaces at either end of the spectrum, at most d − 1.
        starts: searches for minima per problem and level from noised answers, and as many from pure noise,
            the same for both networks.
        radius: minima of one network closer than this times σ_t√d are one.
        reach: minima of two networks further apart than this times σ_t√d are not matched.
        tolerance: on ‖∇_yE‖₂ at minima.
        search_steps: Newton steps at most.
        images: on a path between two minima, both ends included.
        path_steps: of the string method at most.
        seed: of noise and starts.
        chunk: points in memory at once.

    Raises:
        ConfigError: a value is out of range.
    """

    count: int = 16
    levels: Sequence[int] = (9, 7, 5, 3, 1, 0)
    vectors: int = 5
    starts: int = 4
    radius: float = 0.01
    reach: float = 0.5
    tolerance: float = 1e-6
    search_steps: int = 50
    images: int = 10
    path_steps: int = 60
    seed: int = 0
    chunk: int = 256

    def __post_init__(self):
        require_least("difference.landscapes", LEAST, vars(self))
        require_positive("difference.landscapes", POSITIVE, vars(self))
        require_levels("difference.landscapes", self.levels)
