"""Key columns of the tables of a course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from iredinterp.ired.training import Recipe
from iredinterp.points import MODEL_KEYS

CLOCK = "train"


@dataclass(frozen=True)
class CourseKeys:
    """What every row of a course has in common.

    Attributes:
        recipe: as trained.
        name: of the recipe; what is a model elsewhere is one of its seeds here.
        seeds: S training seeds.
    """

    recipe: Recipe
    name: str
    seeds: tuple[int, ...]

    def rows(
        self,
        step: int | None,
        seeds: Sequence[int | None] | None = None,
        levels: Sequence[int | None] = (None,),
        weights: str = "raw",
    ) -> pa.Table:
        """`MODEL_KEYS`, `clock` ("train") and `t`: a row per seed and, within it, level.

        Args:
            step: of all rows; None where they are of no step.
            seeds: all of them if not given; None is a row of all seeds together.
            levels: null but for Hessians.
            weights: "raw", or "ema" for the running average.
        """
        seeds = self.seeds if seeds is None else seeds
        spec = self.recipe.problems
        constant = {
            "model": self.name,
            "family": self.name,
            "condition": "permuted_targets" if self.recipe.permuted else "trained",
            "task": spec.task,
            "n": spec.n,
            "rank": spec.rank,
            "kappa": spec.kappa,
            "step": step,
            "weights": weights,
        }
        rows = [(seed, t) for seed in seeds for t in levels]
        columns = {
            key: pa.array([seed if key == "seed" else constant[key] for seed, _ in rows], kind)
            for key, kind in MODEL_KEYS.items()
        }
        columns["clock"] = pa.array([CLOCK] * len(rows), pa.string())
        columns["t"] = pa.array([t for _, t in rows], pa.int32())
        return pa.table(columns)
