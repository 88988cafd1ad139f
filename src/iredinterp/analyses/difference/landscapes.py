"""Minima of two networks found from the same starts, which of them are the same, and what lies between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from iredinterp.analyses.difference.settings import Settings
from iredinterp.barriers import Band, paths_between
from iredinterp.energy import Energy, map_chunks
from iredinterp.geometry.paths import barrier
from iredinterp.ired.schedule import Schedule
from iredinterp.minima import Search, search
from iredinterp.points import normal_draws, q_sample
from iredinterp.tables import Metric

NO_MINIMUM = "neither network has a minimum here"
NO_RIGHT = "a network has no minimum here"
NONE_SHARED = "no minimum is shared"
NO_OTHER_SHARED = "no minimum besides the right ones is shared"
ONE_MINIMUM = "fewer than two minima were found"
ONE_OF_THEM = "fewer than two minima were found in one of the two"


def optimal_matches(distance: Tensor, reach: float) -> Tensor:
    """As many pairs within reach as can be, no point in two of them, and of all such choices the closest.

    Args:
        distance: from a points to b others, (a, b), none negative.
        reach: on the distance of a pair.

    Returns:
        (k, 2), indices of the pairs, ascending in the first.

    Source:
        The assignment problem (Kuhn 1955) with pairs out of reach dearer than all others together.
    """
    within = distance <= reach
    dear = (reach + 1) * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(distance.where(within, dear).cpu().numpy())
    pairs = torch.tensor([rows.tolist(), columns.tolist()], dtype=torch.int64).T
    return pairs[within.cpu()[pairs[:, 0], pairs[:, 1]]]


def shared_starts(
    y_star: Tensor, ids: list[int], levels: list[int], schedule: Schedule, starts: int, seed: int
) -> Tensor:
    """Starts of P problems at L levels, (LP, 2S, d): S noised answers, then S draws of pure noise N(0, I).

    Args:
        y_star: (P, d).
        ids: of the problems, which with the seed decide the noise.
        levels: L of them.
        schedule: of both networks.
        starts: S.
        seed: of the noise.
    """
    size = y_star.shape[1]
    noise, first = (
        normal_draws(seed, use, ids, starts, size).to(y_star) for use in ("q_sample", "first_state")
    )
    noised = torch.stack([q_sample(y_star.unsqueeze(1), t, noise, schedule) for t in levels])
    return torch.cat([noised, first.expand_as(noised)], dim=2).flatten(0, 1)


@dataclass(frozen=True)
class Side:
    """The minima of one network in B landscapes (x, t).

    Attributes:
        energy: E.
        x: (B, d_x).
        t: (B,).
        answers: √ᾱ_t y*, (B, d).
        found: where the searches ended, (B, S).
        settings: how they were made.
    """

    energy: Energy
    x: Tensor
    t: Tensor
    answers: Tensor
    found: Search
    settings: Settings

    @classmethod
    def of(
        cls, energy: Energy, x: Tensor, t: Tensor, answers: Tensor, starts: Tensor, settings: Settings
    ) -> Side:
        """Search from starts (B, S, d)."""
        s = settings
        radius = s.radius * energy.schedule.sigma[t] * energy.dim_y**0.5
        found = search(energy, x, starts, t, radius, s.tolerance, s.search_steps, s.chunk)
        return cls(energy, x, t, answers, found, settings)

    @cached_property
    def right(self) -> Tensor:
        """Start that found the minimum nearest the answer, (B,); any where none was found."""
        return self.found.nearest(self.answers)

    @cached_property
    def depth(self) -> Tensor:
        """(E − E at the right minimum)/σ_t, in nats, (B, S)."""
        lowest = self.found.energy.gather(1, self.right.unsqueeze(1))
        return (self.found.energy - lowest) / self.energy.schedule.sigma[self.t].unsqueeze(1)

    @cached_property
    def runner_up(self) -> Tensor:
        """Start that found the lowest of all other minima, (B,); −1 where there is none."""
        return self.found.lowest_besides(self.right)

    @cached_property
    def paired(self) -> Tensor:
        """Landscapes that have a minimum besides the right one, (b,)."""
        return (self.runner_up >= 0).nonzero().flatten()

    @cached_property
    def band(self) -> Band | None:
        """Minimum-energy paths of `paired` from the right minimum to the lowest other; None without."""
        rows, s = self.paired, self.settings
        if not len(rows):
            return None
        ends = (self.found.y[rows, which[rows]] for which in (self.right, self.runner_up))
        _, band = paths_between(
            self.energy, self.x[rows], *ends, self.t[rows], s.images, s.path_steps, s.chunk
        )
        return band

    def rise(self, path: Side) -> Tensor:
        """How far E rises along the paths of a network, in nats, (B,); NaN where it has none."""
        values = torch.full((len(self.t),), torch.nan, dtype=torch.float64, device=self.t.device)
        if path.band is None:
            return values
        rows, images = path.paired, path.band.images
        count = images.shape[1]
        x, t = (part[rows].repeat_interleave(count, 0) for part in (self.x, self.t))
        flat = x, images.flatten(0, 1), t
        energies = torch.cat(list(map_chunks(self.energy.energy, flat, self.settings.chunk)))
        rises = barrier(energies.unflatten(0, (-1, count)))
        values[rows] = rises.double() / self.energy.schedule.sigma[self.t[rows]].double()
        return values


@dataclass(frozen=True)
class Pair:
    """The minima of two networks in the same B landscapes, matched.

    Attributes:
        model: of one network.
        other: of the other, from the same starts.
    """

    model: Side
    other: Side

    @cached_property
    def unit(self) -> Tensor:
        """σ_t√d, (B,)."""
        energy = self.model.energy
        return energy.schedule.sigma[self.model.t].double() * energy.dim_y**0.5

    @cached_property
    def matches(self) -> Tensor:
        """Landscape, start of the one and start of the other for every shared minimum, (k, 3)."""
        triples = [torch.zeros(0, 3, dtype=torch.int64)]
        for row, unit in enumerate(self.unit):
            own, others = (side.found.distinct[row].nonzero().flatten() for side in (self.model, self.other))
            if len(own) and len(others):
                ends = self.model.found.y[row, own].unsqueeze(1), self.other.found.y[row, others]
                apart = (ends[0] - ends[1]).norm(dim=2) / unit
                first, second = optimal_matches(apart, self.model.settings.reach).to(own.device).T
                rows = torch.full_like(first, row)
                triples.append(torch.stack([rows, own[first], others[second]], dim=1).cpu())
        return torch.cat(triples)

    @cached_property
    def distance(self) -> Tensor:
        """Of the two ends of every match, in units of σ_t√d, (k,)."""
        row, own, others = self.matches.T
        apart = self.model.found.y[row, own] - self.other.found.y[row, others]
        return apart.double().norm(dim=1).cpu() / self.unit.cpu()[row]

    @cached_property
    def shared(self) -> Tensor:
        """Minima of a landscape that are matched, (B,)."""
        return torch.bincount(self.matches[:, 0], minlength=len(self.unit))

    def metrics(self) -> Iterator[Metric]:
        """One value per landscape each; see `iredinterp.analyses.difference.difference_tables`."""
        sides = {"model": self.model, "other": self.other}
        counts = {name: side.found.distinct.sum(1).double().cpu() for name, side in sides.items()}
        for name, side in sides.items():
            yield Metric("minima_count", counts[name], name)
            yield Metric("minima_alone", counts[name] - self.shared, name)
            yield Metric("unconverged_rate", (~side.found.converged).double().mean(1), name)
        total = sum(counts.values())
        yield Metric("minima_shared", self.shared)
        yield Metric("shared_share", 2 * self.shared / total.where(total > 0, torch.nan), reason=NO_MINIMUM)
        everything = torch.ones(len(self.matches), dtype=torch.bool)
        yield Metric("match_distance", self._mean(self.distance, everything), reason=NONE_SHARED)
        yield from self._right_metrics(counts)
        row, own, others = self.matches.T
        depth = (self.model.depth[row, own] - self.other.depth[row, others]).double().cpu()
        wrong = (own != self.model.right.cpu()[row]) & (others != self.other.right.cpu()[row])
        yield Metric("depth_difference", self._mean(depth, wrong), reason=NO_OTHER_SHARED)
        rises = {name: side.rise(side) for name, side in sides.items()}
        for name, rise in rises.items():
            yield Metric("barrier", rise, name, ONE_MINIMUM)
        yield Metric("barrier_difference", rises["model"] - rises["other"], reason=ONE_OF_THEM)
        yield Metric("barrier_across", self.model.rise(self.other), "model", ONE_MINIMUM)
        yield Metric("barrier_across", self.other.rise(self.model), "other", ONE_MINIMUM)

    def _right_metrics(self, counts: dict[str, Tensor]) -> Iterator[Metric]:
        """Of the minima nearest the answer, whether they are matched or not."""
        row = torch.arange(len(self.unit))
        both = (counts["model"] > 0) & (counts["other"] > 0)
        own, others = self.model.right.cpu(), self.other.right.cpu()
        apart = (self.model.found.y[row, own] - self.other.found.y[row, others]).double().norm(dim=1).cpu()
        here = self.matches[:, 0]
        pair = (self.matches[:, 1] == own[here]) & (self.matches[:, 2] == others[here])
        matched = torch.bincount(here[pair], minlength=len(row)).double()
        yield Metric("right_distance", (apart / self.unit.cpu()).where(both, torch.nan), reason=NO_RIGHT)
        yield Metric("right_shared", matched.where(both, torch.nan), reason=NO_RIGHT)

    def _mean(self, values: Tensor, which: Tensor) -> Tensor:
        """Means over some matches of each landscape, (B,); NaN without."""
        row, count = self.matches[which, 0], len(self.unit)
        total = torch.bincount(row, values[which], minlength=count)
        return total / torch.bincount(row, minlength=count)
