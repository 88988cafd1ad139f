"""How much of the gradient a circuit recovers as it grows, against random circuits of the same shape.

Points must be others than those the units were ranked on. Faithfulness f has no lower bound: a circuit whose
gradient is longer than the network's and points elsewhere does worse than none, and one without any unit of
some layer has no gradient, f = 0. As in the benchmark that CPR and CMD come from, nothing is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, ablated, faithfulness, whole
from iredinterp.analyses.circuits.exact import UNITS
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
# Numbers in one layer of a batch of circuits (measured: stays in cache).
TOGETHER = 2**18


def sizes_of(shares: Sequence[float], hidden: int) -> list[int]:
    """Numbers of units nearest to shares of all 3h, without repeats, both ends included.

    Raises:
        ConfigError: a share outside 0 … 1.
    """
    outside = [share for share in shares if not 0 <= share <= 1]
    if outside:
        raise ConfigError(f"shares: found {outside[0]}, expected 0 … 1")
    return sorted({round(share * 3 * hidden) for share in (0, 1, *shares)})


def best_units(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    """The circuits of the k best units, layers together, (K, 3, h) bool; ties go to the first in order.

    Args:
        scores: (3, h), larger is better.
        sizes: K numbers of units.
    """
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    return (order.argsort() < torch.tensor(sizes, device=scores.device)[:, None]).unflatten(1, scores.shape)


def random_units(members: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Random circuits with as many units in each layer as given ones, (draws, K, 3, h) bool.

    In one draw a layer's units join in one order, so that circuits are nested where the given ones are.

    Args:
        members: (K, 3, h).
        draws: how many per given circuit.
        generator: of them.
    """
    layers, hidden = members.shape[1:]
    ranks = torch.rand(draws, 1, layers, hidden, generator=generator).argsort(-1).argsort(-1)
    return ranks.to(members.device) < members.sum(-1, keepdim=True)


def unit_masks(model: EnergyMLP, members: Tensor) -> Parts:
    """Masks of circuits that keep these units, all inputs and all gates.

    Args:
        model: the network.
        members: (…, 3, h).

    Returns:
        (…, 1, h) for the units.
    """
    layers = members.to(model.device, model.dtype).unsqueeze(-3).unbind(-2)
    return whole(model)._replace(**dict(zip(UNITS, layers, strict=True)))


def faithfulness_of(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, members: Tensor, fill: Parts
) -> Tensor:
    """Faithfulness f of circuits of units, (…, B).

    Args:
        model: the network.
        x: (B, d_x), of one level.
        y: (B, d).
        t: (B,).
        members: (…, 3, h).
        fill: what stands in for ablated parts.
    """
    gradient = model.energy_and_gradient(x, y, t)[1]
    flat = members.flatten(0, -3)
    found = [
        faithfulness(ablated(model, x, y, t, unit_masks(model, some), fill)[1], gradient)
        for some in flat.split(max(1, TOGETHER // (len(y) * model.hidden)))
    ]
    return torch.cat(found).unflatten(0, members.shape[:-2])


def cpr(sizes: ArrayLike, f: ArrayLike) -> np.ndarray:
    """Area under f over the share of units, the larger the better: 1 if every circuit is faithful.

    Args:
        sizes: (K,), ascending, from 0 to all.
        f: (…, K).

    Returns:
        (…).

    Source:
        Circuit performance ratio, Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark",
        by the trapezoidal rule and without clipping, as there.
    """
    return np.trapezoid(np.asarray(f), _shares(sizes), axis=-1)


def cmd(sizes: ArrayLike, f: ArrayLike) -> np.ndarray:
    """Area of |1 − f| over the share of units, the smaller the better. Arguments and source as in `cpr`.

    Returns:
        (…).

    Source:
        Circuit-model distance.
    """
    return np.trapezoid(np.abs(1 - np.asarray(f)), _shares(sizes), axis=-1)


def smallest_faithful(sizes: Sequence[int], f: ArrayLike, threshold: float = 0.95) -> int:
    """The smallest size at which f reaches the threshold; larger ones may fall below it again.

    Args:
        sizes: (K,), ascending, to all units, where f is 1.
        f: (K,).
        threshold: on f.

    Raises:
        ConfigError: no size reaches it.
    """
    reached = np.flatnonzero(np.asarray(f) >= threshold)
    if not len(reached):
        raise ConfigError(f"sizes: f stays below {threshold}; include the size of the whole network")
    return int(sizes[reached[0]])


def faithfulness_gain(found: Tensor, random: Tensor, floor: float = -math.inf) -> Tensor:
    """Faithfulness less that of random circuits, mean over draws and over sizes between the ends, (B,).

    At the ends, no unit and all units, the two are equal.

    Args:
        found: (K, B), K > 2 sizes including both ends.
        random: (draws, K, B).
        floor: what f counts as where it is less. In trained networks at level 0, random circuits with as many
            units in every layer get down to −3; those shaped like the units of largest effect do not.

    Raises:
        ConfigError: no size between the ends.
    """
    if len(found) < 3:
        raise ConfigError(f"sizes: found {len(found)}, expected at least one between none and all")
    return (found.clamp(min=floor) - random.clamp(min=floor).mean(0))[1:-1].mean(0)


def _shares(sizes: ArrayLike) -> np.ndarray:
    sizes = np.asarray(sizes, dtype=np.float64)
    return sizes / sizes[-1]
