"""A network at one level: circuits found on half of the problems, and what the other half says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, faithfulness, fills
from iredinterp.analyses.circuits.alignment import (
    aligned_basis,
    interchange_accuracy,
    pairs,
    random_basis,
    units_basis,
)
from iredinterp.analyses.circuits.curves import (
    best_units,
    faithfulness_of,
    random_units,
    sizes_of,
    smallest_faithful,
)
from iredinterp.analyses.circuits.identifiability import (
    Identifiability,
    circuit_gradients,
    identifiability,
    restarts,
)
from iredinterp.analyses.circuits.search import METHODS
from iredinterp.analyses.circuits.validity import (
    Equivalence,
    Independence,
    Minimality,
    chance_effects,
    denoising_error,
    equivalence,
    independence,
    minimality,
    removal_effects,
)
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP

# Uses of random numbers; the order is part of every seed.
STREAMS = ("search", "held_out", "random", "restarts", "tests", "variables")


class Sample(NamedTuple):
    """Points of one level: x (B, d_x), y (B, d), t (B,), and the noise ε in y, (B, d)."""

    x: Tensor
    y: Tensor
    t: Tensor
    noise: Tensor


class Ranking(NamedTuple):
    """Circuits cut from a ranking of the units.

    Attributes:
        scores: (3, h), larger is more needed; like the members on the CPU, wherever the network is.
        members: bool, (K, 3, h), the best units at each of K sizes.
        searched: (K,), mean faithfulness on the points of the search.
        found: (K, B), faithfulness on the other points.
        chosen: which of the K is the circuit, the smallest that was faithful in the search.
    """

    scores: Tensor
    members: Tensor
    searched: Tensor
    found: Tensor
    chosen: int

    @property
    def circuit(self) -> Tensor:
        """Bool, (3, h)."""
        return self.members[self.chosen]


@dataclass(frozen=True)
class Level:
    """A network at one level.

    Attributes:
        model: the network, float64.
        t: level.
        search: points to find circuits on.
        held_out: points to judge them on.
        ablation: what stands in for ablated units.
        shares: sizes of circuits, as shares of all units.
        threshold: on the faithfulness of a circuit.
        seed: of everything drawn.
    """

    model: EnergyMLP
    t: int
    search: Sample
    held_out: Sample
    ablation: str
    shares: Sequence[float]
    threshold: float
    seed: int

    def generator(self, use: str) -> torch.Generator:
        """Random numbers of this level for one use."""
        words = np.random.SeedSequence([self.seed, STREAMS.index(use), self.t]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0] >> 1))

    @cached_property
    def sizes(self) -> list[int]:
        """K numbers of units, none and all included."""
        return sizes_of(self.shares, self.model.hidden)

    @cached_property
    def fill(self) -> tuple[Parts, Parts]:
        """What stands in for ablated parts in the search and on the other points."""
        return tuple(
            fills(self.model, *sample[:3], self.ablation, self.generator(use))
            for sample, use in ((self.search, "search"), (self.held_out, "held_out"))
        )

    def ranking(self, method: str) -> Ranking:
        """The circuits of a method.

        Raises:
            ConfigError: no such method.
        """
        if method not in METHODS:
            raise ConfigError(f"circuits: method {method!r} is unknown; use one of {', '.join(METHODS)}")
        scores = METHODS[method](self.model, *self.search[:3], self.ablation, self.generator("search")).cpu()
        members = best_units(scores, self.sizes)
        searched = self._faithfulness(members, 0).mean(-1)
        smallest = smallest_faithful(self.sizes, searched.cpu(), self.threshold)
        chosen = self.sizes.index(smallest)
        return Ranking(scores, members, searched, self._faithfulness(members, 1), chosen)

    def random(self, members: Tensor, draws: int) -> Tensor:
        """Faithfulness on held-out points of random circuits with as many units per layer, (draws, K, B)."""
        return self._faithfulness(random_units(members, draws, self.generator("random")), 1)

    def tests(
        self, circuit: Tensor, draws: int, permutations: int
    ) -> tuple[Equivalence, Independence, Minimality | None]:
        """Whether a circuit does what the network does, alone, and needs all of its units.

        Args:
            circuit: bool, (3, h).
            draws: random units that its units are compared with.
            permutations: of the test of independence.

        Returns:
            The three tests on held-out points; no minimality of the whole network, nor of no unit at all.
        """
        sample, generator = self.held_out, self.generator("tests")
        gradients = circuit_gradients(self.model, *sample[:3], self.fill[1])
        everything = torch.ones_like(circuit)
        own, rest, all_units = gradients(torch.stack([circuit, ~circuit, everything]))
        errors = (denoising_error(part, sample.noise) for part in (own, all_units))
        minimal = None
        if 0 < circuit.sum() < circuit.numel():

            def score(circuits: Tensor) -> Tensor:
                return faithfulness(gradients(circuits), all_units)

            effects = removal_effects(score, circuit)
            minimal = minimality(effects, chance_effects(score, circuit, draws, generator))
        return equivalence(*errors), independence(rest, all_units, generator, permutations), minimal

    def restarts(self, count: int) -> tuple[Identifiability, int]:
        """How many circuits of one size are as faithful as asked, and their size."""

        def score(circuits: Tensor) -> Tensor:
            return self._faithfulness(circuits, 0).mean(-1).cpu()

        found = restarts(score, self.model.hidden, count, self.threshold, self.generator("restarts"))
        index = identifiability(found.circuits, found.faithfulness, self.threshold)
        return index, int(found.circuits[0].sum())

    def variables(
        self, layers: Sequence[int], dimensions: Sequence[int], sources: int, steps: int
    ) -> Mapping[tuple[str, int, int], float]:
        """Interchange accuracy of the answer on held-out pairs, by (kind of subspace, layer, dimension).

        Args:
            layers: of 1, 2, 3.
            dimensions: of the subspaces.
            sources: per point.
            steps: of learning the aligned ones.
        """
        generator, found = self.generator("variables"), {}
        learnt, tested = (pairs(*sample[:3], sources, generator) for sample in (self.search, self.held_out))
        for layer in layers:
            for k in dimensions:
                subspaces = {
                    "aligned": aligned_basis(self.model, layer, k, learnt, generator, steps),
                    "units": units_basis(self.model, layer, k, learnt),
                    "random": random_basis(self.model.hidden, k, generator).to(self.model.device),
                }
                for kind, basis in subspaces.items():
                    accuracy = interchange_accuracy(self.model, layer, basis, tested)
                    found[kind, layer, k] = float(accuracy)
        return found

    def _faithfulness(self, members: Tensor, which: int) -> Tensor:
        sample = (self.search, self.held_out)[which]
        return faithfulness_of(self.model, *sample[:3], members, self.fill[which])
