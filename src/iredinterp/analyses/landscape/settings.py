"""What EXP-002 may be asked to do, checked where it enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iredinterp.ranges import require_least, require_levels, require_positive

LEAST = {
    "every": 1,
    "starts": 1,
    "runs": 1,
    "search_steps": 1,
    "images": 3,
    "path_steps": 1,
    "slices": 0,
    "size": 3,
    "chunk": 1,
}
POSITIVE = ("radius", "spurious", "tolerance", "extent")


@dataclass(frozen=True)
class Settings:
    """How landscapes are looked at.

    Args:
        every: one of every so many problems is looked at.
        levels: t looked at.
        starts: searches for minima per problem and level from noised answers, the same for all conditions.
        runs: searches per problem and level from where a run of the sampler leaves the level.
        radius: minima closer than this times σ_t√d are one.
        spurious: a minimum further than this from √ᾱ_t y* is spurious, in units of the typical distance
            √(dσ_t² + ᾱ_t tr Cov[y₀|x]) of y from √ᾱ_t E[y₀|x] at its level.
        tolerance: on ‖∇_yE‖₂ at minima and saddles.
        search_steps: Newton steps at most.
        images: on a path between two minima, both ends included.
        path_steps: of the string method at most.
        slices: problems that slices are made of.
        extent: of a slice to either side, in units of σ_t.
        size: points along each axis of a slice.
        rank: r of the manifold of completion; None for that of the problems, or 1 where they have none.
        seed: of starts, first states and random directions.
        chunk: points in memory at once.

    Raises:
        ConfigError: a value is out of range.
    """

    every: int = 4
    levels: Sequence[int] = (9, 6, 3, 0)
    starts: int = 6
    runs: int = 2
    radius: float = 0.01
    spurious: float = 0.5
    tolerance: float = 1e-6
    search_steps: int = 50
    images: int = 12
    path_steps: int = 100
    slices: int = 2
    extent: float = 6.0
    size: int = 21
    rank: int | None = None
    seed: int = 0
    chunk: int = 512

    def __post_init__(self):
        require_least("landscape", LEAST, vars(self))
        require_positive("landscape", POSITIVE, vars(self))
        require_levels("landscape", self.levels)
