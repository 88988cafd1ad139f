"""How many circuits of one size explain a network equally well, and how much they have in common.

A circuit is worth naming if it is the only one. Restarts of a search that knows of no score, only of
faithfulness, say whether it is: units are removed in random order as long as the circuit stays faithful.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, ablated
from iredinterp.analyses.circuits.curves import unit_masks
from iredinterp.analyses.circuits.overlap import expected_jaccard, jaccard
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP

LAYERS = 3
# Circuits times points evaluated at once.
CHUNK = 4096


class Restarts(NamedTuple):
    """Circuits found from R random orders, all of one size.

    Attributes:
        circuits: bool, (R, 3, h).
        faithfulness: (R,).
        smallest: (R,), number of units at which each restart could remove no more.
    """

    circuits: Tensor
    faithfulness: Tensor
    smallest: Tensor


class Identifiability(NamedTuple):
    """The non-identifiability index.

    Attributes:
        faithful: restarts whose circuit is as faithful as asked.
        distinct: different circuits among them; 1 says that the network has one circuit of this size.
        jaccard: mean Jaccard index of any two distinct ones; 1 where there is one, NaN where there is none.
        expected: the same of random circuits with their sizes per layer.

    Source:
        Méloux et al. 2025 (arXiv:2502.20914).
    """

    faithful: int
    distinct: int
    jaccard: float
    expected: float


def circuit_gradients(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts
) -> Callable[[Tensor], Tensor]:
    """∇_yE as a function of circuits of units, inputs and gates being kept.

    Args:
        model: the network.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        fill: of ablated units, from `fills`.

    Returns:
        A function from masks, bool or numbers (M, 3, h), to gradients, (M, B, d).
    """

    def gradients(circuits: Tensor) -> Tensor:
        parts = circuits.to(model.device).split(max(1, CHUNK // len(x)))
        return torch.cat([ablated(model, x, y, t, unit_masks(model, part), fill)[1] for part in parts])

    return gradients


def restarts(
    score: Callable[[Tensor], Tensor],
    hidden: int,
    count: int,
    threshold: float,
    generator: torch.Generator,
) -> Restarts:
    """Faithful circuits from random orders of removal.

    Each restart goes once through all units in an order of its own and removes those without which the
    circuit stays faithful, several at once while that goes well. The last removals are then undone, unit by
    unit, until all restarts have the size of the largest circuit.

    Args:
        score: mean faithfulness of circuits, (M, 3, h) bool → (M,).
        hidden: h.
        count: R, restarts.
        threshold: least faithfulness of a circuit.
        generator: of the orders.

    Raises:
        ConfigError: the whole network misses the threshold.
    """
    units = LAYERS * hidden
    kept = torch.ones(count, units, dtype=torch.bool)
    if not (best := score(kept[:1].unflatten(1, (LAYERS, hidden))).item()) >= threshold:
        raise ConfigError(
            f"circuits: the whole network has faithfulness {best:g}, below {threshold:g}: lower it"
        )
    orders = torch.rand(count, units, generator=generator).argsort(1)
    place = torch.zeros(count, dtype=torch.long)
    stride = torch.ones(count, dtype=torch.long)
    # When each unit was removed; kept ones have the largest number.
    removed = torch.full((count, units), units)
    rank = orders.argsort(1)
    while (active := (place < units).nonzero().flatten()).numel():
        # rank is each unit's place in the order: those from `place` on, `stride` of them, go together.
        start = place[active, None]
        going = (rank[active] >= start) & (rank[active] < start + stride[active, None])
        tried = kept[active] & ~going
        good = (score(tried.unflatten(1, (LAYERS, hidden))) >= threshold).cpu()
        won, lost = active[good], active[~good]
        kept[won] = tried[good]
        removed[won] = torch.where(going[good], rank[won], removed[won])
        place[won] += stride[won]
        stride[won] *= 2
        place[lost] += (stride[lost] == 1).long()
        stride[lost] = 1
    smallest = kept.sum(1)
    # Keeping the units removed last restores a circuit that the restart has passed through.
    lasting = removed.argsort(dim=1, descending=True, stable=True)[:, : int(smallest.max())]
    circuits = torch.zeros_like(kept).scatter(1, lasting, True).unflatten(1, (LAYERS, hidden))
    return Restarts(circuits, score(circuits), smallest)


def identifiability(circuits: Tensor, found: Tensor, threshold: float) -> Identifiability:
    """How many different circuits of one size are faithful.

    Args:
        circuits: bool, (R, 3, h), with equally many units each.
        found: (R,), their faithfulness.
        threshold: least faithfulness.

    Raises:
        ConfigError: circuits of several sizes: only equally large ones compete.
    """
    sizes = circuits.sum((-2, -1)).unique().tolist()
    if len(sizes) > 1:
        raise ConfigError(f"circuits: found sizes {sizes}; compare circuits of one size")
    faithful = circuits[found >= threshold]
    distinct = faithful.unique(dim=0)
    # A single circuit is compared with itself.
    first, second = torch.triu_indices(len(distinct), len(distinct), int(len(distinct) > 1))
    kept, hidden = distinct.sum(-1).tolist(), circuits.shape[-1]
    chance = [expected_jaccard(kept[i], kept[j], hidden) for i, j in zip(first, second, strict=True)]
    mean = jaccard(distinct[first], distinct[second]).mean().item()
    expected = torch.tensor(chance, dtype=torch.float64).mean().item()
    return Identifiability(len(faithful), len(distinct), mean, expected)
