"""The minima of many landscapes at once, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.landscape.saddles import Saddles, saddles
from iredinterp.analyses.landscape.settings import Settings
from iredinterp.barriers import Band, paths_between
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.ired.sampler import Trajectory, sample
from iredinterp.minima import (
    Search,
    outside_box,
    posterior_variance,
    resolution,
    search,
)
from iredinterp.points import normal_draws, point_keys, q_sample
from iredinterp.ranges import require_levels
from iredinterp.tables import tensor_column

# Where searches start, in this order.
START_KINDS = ("q_sample", "sampler")


@dataclass(frozen=True)
class Study:
    """The landscapes of P problems at L levels: row l·P + p is problem p at the l-th level.

    Attributes:
        energy: E.
        settings: how it was looked at.
        ids: problem_id of the problems, (P,).
        positions: of the problems among all, (P,).
        keys: one row per landscape.
        x: (LP, d_x).
        t: (LP,).
        answers: √ᾱ_t y*, (LP, d).
        width: typical distance of y from √ᾱ_t E[y₀|x], (LP,).
        runs: of the sampler, R per problem, one after the other.
        found: where searches ended, (LP, S).
        kinds: number of starts of each kind, in the order of `START_KINDS`.
    """

    energy: Energy
    settings: Settings
    ids: Sequence[int]
    positions: Tensor
    keys: pa.Table
    x: Tensor
    t: Tensor
    answers: Tensor
    width: Tensor
    runs: Trajectory
    found: Search
    kinds: Sequence[int]

    @classmethod
    def of(
        cls,
        energy: Energy,
        problems: pa.Table,
        keys: Mapping[str, object],
        oracle: Energy | None,
        block: slice,
        settings: Settings,
    ) -> Study:
        """Search the landscapes of the problems of a block, see `iredinterp.analyses.landscape`.

        Raises:
            ConfigError: no such level, or no problem is left to look at.
        """
        schedule, levels = energy.schedule, list(settings.levels)
        require_levels("landscape", levels, schedule.levels)
        positions = torch.arange(problems.num_rows)[block]
        positions = positions[positions % settings.every == 0]
        if not len(positions):
            raise ConfigError(
                f"landscape.every: found {settings.every}, which leaves no problem of this block; give a "
                "number that divides sampling.block"
            )
        ids = problems["problem_id"].to_numpy()[positions.numpy()].tolist()
        x, y_star = (
            tensor_column(problems, name).flatten(1)[positions].to(energy.device, energy.dtype)
            for name in ("x", "y_star")
        )
        noise, first = (
            normal_draws(settings.seed, use, ids, draws, energy.dim_y).to(y_star)
            for use, draws in (("q_sample", settings.starts), ("first_state", settings.runs))
        )
        runs = sample(energy, x.repeat_interleave(settings.runs, 0), init=first.flatten(0, 1))
        left = (runs.answers.flip(0)[levels] * schedule.sqrt_alphas_cumprod[levels][:, None, None]).unflatten(
            1, (-1, settings.runs)
        )
        noised = torch.stack([q_sample(y_star.unsqueeze(1), t, noise, schedule) for t in levels])
        starts = torch.cat([noised, left], dim=2).flatten(0, 1)
        t = torch.tensor(levels, device=x.device).repeat_interleave(len(ids))
        scale, sigma = schedule.sqrt_alphas_cumprod[t], schedule.sigma[t]
        variance = posterior_variance(oracle, x, settings.chunk).repeat(len(levels))
        many = x.repeat(len(levels), 1)
        radius = settings.radius * sigma * energy.dim_y**0.5
        rows = [
            point_keys(keys, ids, level, float(schedule.sigma[level]), "minimum", [0] * len(ids))
            for level in levels
        ]
        return cls(
            energy,
            settings,
            ids,
            positions,
            pa.concat_tables(rows),
            many,
            t,
            scale.unsqueeze(1) * y_star.repeat(len(levels), 1),
            resolution(sigma, scale, variance, energy.dim_y),
            runs,
            search(
                *(energy, many, starts, t, radius),
                *(settings.tolerance, settings.search_steps, settings.chunk),
            ),
            (settings.starts, settings.runs),
        )

    @property
    def sigma(self) -> Tensor:
        """σ_t, (LP,)."""
        return self.energy.schedule.sigma[self.t]

    @cached_property
    def distance(self) -> Tensor:
        """Of every end of a search from the answer, in units of the width, (LP, S)."""
        return (self.found.y - self.answers.unsqueeze(1)).norm(dim=2) / self.width.unsqueeze(1)

    @cached_property
    def spurious(self) -> Tensor:
        """Whether a minimum is further from the answer than allowed, (LP, S)."""
        return self.distance > self.settings.spurious

    @cached_property
    def outside(self) -> Tensor:
        """Entries outside the sampler's box, (LP, S)."""
        return outside_box(self.found.y, self.energy.schedule.sqrt_alphas_cumprod[self.t].unsqueeze(1))

    @cached_property
    def nearest(self) -> Tensor:
        """Start that found the minimum nearest the answer, (LP,); any where none was found."""
        return self.found.nearest(self.answers)

    @cached_property
    def runner_up(self) -> Tensor:
        """Start that found the lowest of all other minima, (LP,); −1 where there is none."""
        return self.found.lowest_besides(self.nearest)

    @cached_property
    def paired(self) -> Tensor:
        """Landscapes that have two minima, (B,)."""
        return (self.runner_up >= 0).nonzero().flatten()

    @cached_property
    def bands(self) -> tuple[Band, Band, Saddles] | None:
        """Between the two minima of `paired`: straight lines, minimum-energy paths, saddles; None without."""
        rows = self.paired
        if not len(rows):
            return None
        ends = (self.found.y[rows, which[rows]] for which in (self.nearest, self.runner_up))
        s = self.settings
        straight, band = paths_between(
            self.energy, self.x[rows], *ends, self.t[rows], s.images, s.path_steps, s.chunk
        )
        return straight, band, saddles(self.energy, self.x[rows], band, self.t[rows], s.tolerance)

    def everywhere(self, values: Tensor) -> Tensor:
        """Values of the landscapes of `paired`, (B,), as those of all, (LP,): NaN where there is no pair."""
        full = torch.full((len(self.t),), torch.nan, dtype=torch.float64, device=values.device)
        full[self.paired] = values.double()
        return full
