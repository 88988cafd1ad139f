"""The network with some of its parts replaced by what they are elsewhere, at any number of circuits at once.

A part is an input, a hidden unit or a gate, the gain and bias that FiLM gives a unit at a level. A circuit
keeps some parts; the others are ablated: their values are replaced by fixed ones, through which no gradient
flows. The gradient of an empty circuit therefore is 0, and ‖g_C − g‖²/‖g‖² runs from 1 to 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP, swish_slope

ABLATIONS = ("resample", "mean", "zero")


class Parts(NamedTuple):
    """One number for every part: of masks 1 (kept) or 0 (ablated), of fills the value put in its place.

    Masks are (…, n) and broadcast against points: (n,) for one circuit, (M, 1, n) for M circuits at once.
    Fills are (B, n), gates (B, 2, n) with gain and bias.

    Attributes:
        inputs: n = d_x + d, the entries of [x; y].
        h1, h2, h3: n = h, the units of the hidden layers.
        gate2, gate3: n = h, what the level does to the units of layers 2 and 3.
    """

    inputs: Tensor
    h1: Tensor
    h2: Tensor
    h3: Tensor
    gate2: Tensor
    gate3: Tensor


def whole(model: EnergyMLP) -> Parts:
    """The circuit that keeps everything."""
    inputs, units = torch.ones(model.dim_x + model.dim_y), torch.ones(model.hidden)
    return Parts(*(part.to(model.device, model.dtype) for part in (inputs, *[units] * 5)))


def fills(
    model: EnergyMLP,
    x: Tensor,
    y: Tensor,
    t: Tensor,
    ablation: str = "resample",
    generator: torch.Generator | None = None,
) -> Parts:
    """What stands in for ablated parts at each of B points.

    Args:
        model: the network.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        ablation: "resample", the values at another point of the same level, every point being used once, and
            the gate of another level; "mean", the mean over the points of the level, and over all levels for
            a gate; or "zero", with a gate that changes nothing.
        generator: of what is resampled.

    Raises:
        ConfigError: no such ablation, or a single point of a level to resample from.
    """
    if ablation not in ABLATIONS:
        raise ConfigError(f"ablation {ablation!r} is unknown; use one of {', '.join(ABLATIONS)}")
    a = model.activations(x, y, t)
    values = (torch.cat([x, y], -1), a.h1, a.h2, a.h3)
    gain2, bias2, gain3, bias3 = model.modulations
    gates = torch.stack([gain2, bias2], 1), torch.stack([gain3, bias3], 1)
    if ablation == "zero":
        neutral = torch.zeros_like(gates[0][t])
        neutral[:, 0] = 1
        return Parts(*map(torch.zeros_like, values), neutral, neutral)
    if ablation == "mean":
        same = (t[:, None] == t).to(x.dtype)
        averages = (same @ value / same.sum(1, keepdim=True) for value in values)
        return Parts(*averages, *(gate.mean(0).expand(len(t), -1, -1) for gate in gates))
    donors = _donors(t, generator)
    levels = model.schedule.levels
    away = torch.randint(1, levels, (len(t),), generator=generator).to(t.device)
    return Parts(*(value[donors] for value in values), *(gate[(t + away) % levels] for gate in gates))


def ablated(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, kept: Parts, fill: Parts
) -> tuple[Tensor, Tensor]:
    """E and ∇_yE of circuits.

    Args:
        model: the network.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        kept: masks, broadcasting to (…, B, n).
        fill: from `fills`.

    Returns:
        (…, B) and (…, B, d), differentiable in the masks.
    """
    parameters = model.parameters
    gain2, bias2, gain3, bias3 = (model.at_level(table, t) for table in model.modulations)
    gain2, bias2 = mixed(kept.gate2, gain2, fill.gate2[:, 0]), mixed(kept.gate2, bias2, fill.gate2[:, 1])
    gain3, bias3 = mixed(kept.gate3, gain3, fill.gate3[:, 0]), mixed(kept.gate3, bias3, fill.gate3[:, 1])
    z1 = model.layer("fc1", mixed(kept.inputs, torch.cat([x, y], -1), fill.inputs))
    z2 = model.layer("fc2", mixed(kept.h1, F.silu(z1), fill.h1)) * gain2 + bias2
    z3 = model.layer("fc3", mixed(kept.h2, F.silu(z2), fill.h2)) * gain3 + bias3
    output = model.layer("fc4", mixed(kept.h3, F.silu(z3), fill.h3))
    r3 = kept.h3 * ((2 * output) @ parameters["fc4.weight"])
    r2 = kept.h2 * ((r3 * swish_slope(z3) * gain3) @ parameters["fc3.weight"])
    r1 = kept.h1 * ((r2 * swish_slope(z2) * gain2) @ parameters["fc2.weight"])
    gradient = (r1 * swish_slope(z1)) @ parameters["fc1.weight"][:, model.dim_x :]
    return output.square().sum(-1), gradient * kept.inputs[..., model.dim_x :]


def faithfulness(found: Tensor, gradient: Tensor) -> Tensor:
    """1 − ‖g_C − g‖²/⟨‖g‖²⟩ point by point, the share of the gradient that a circuit recovers.

    Args:
        found: g_C, (…, B, d).
        gradient: g, (B, d), of points of one level; ⟨·⟩ is the mean over them.

    Returns:
        (…, B), whose mean is 1 for the whole network and 0 for the empty circuit; NaN where g is 0 at all
        points.
    """
    scale = gradient.square().sum(-1).mean()
    return 1 - (found - gradient).square().sum(-1) / torch.where(scale > 0, scale, torch.nan)


def mixed(kept: Tensor, value: Tensor, fill: Tensor) -> Tensor:
    """The value where a part is kept and its fill where it is ablated.

    Args:
        kept: (…, n), mask of `Parts`.
        value: (B, n), of the whole network.
        fill: (B, n), of `Parts`.

    Returns:
        (…, B, n).
    """
    return kept * value + (1 - kept) * fill


def _donors(t: Tensor, generator: torch.Generator | None) -> Tensor:
    """For each point another one of its level, (B,): a cyclic shift of a random order."""
    donors = torch.empty_like(t)
    for level in t.unique().tolist():
        points = (t == level).nonzero().flatten()
        if len(points) < 2:
            raise ConfigError(f"circuits: 1 point at level {level}, resampling needs 2: raise sampling.count")
        order = points[torch.randperm(len(points), generator=generator).to(t.device)]
        donors[order] = order.roll(1)
    return donors
