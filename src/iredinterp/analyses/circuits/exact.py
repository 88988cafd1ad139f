"""What the network loses without one part, and gains by one part alone: exact, for all parts of a layer.

Replacing the activation of unit j of layer l by another, and its slope with it, moves what layer l+1 reads by
Δ_j W[:, j]: a product of two numbers, not of two matrices. From there the change runs on to E. Back
it need not run: layers up to l are as they were, and their tangents A_l = ∂u_l/∂y (u_l before the level's
gain) turn the change of r̃_{l+1} = ∂E/∂u_{l+1} into that of the gradient,

    g'_j − g = A_{l+1} δr̃_{l+1} + δc_j (W[:, j]·r̃'_{l+1}) A_l[:, j],

c being the slope of the activation in u. At layer 3, where r̃₄ = 2·fc4(h₃), this is a closed form in Δ_j. One
unit costs 2h² + 3hd products at layer 1, 3hd at layer 2 and d² at layer 3; a forward and backward pass costs
4h² + h(d_x + 4d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, ablated, mixed, whole
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP, swish_slope

UNITS = ("h1", "h2", "h3")
GATES = ("gate2", "gate3")
# Tangents, and what a chunk of units moves, of this size at a time (measured: stays in cache).
TANGENT_BYTES, CHUNK_BYTES = 2**24, 2**21


class Distances(NamedTuple):
    """How far circuits are from the whole network, point by point, each (n, B).

    Attributes:
        energy: E_C − E.
        gradient: ‖g_C − g‖²; empty if it was not asked for.
    """

    energy: Tensor
    gradient: Tensor


class Scores(NamedTuple):
    """How much parts matter, one row per kind of part; larger is more.

    Attributes:
        gradient: by M1 = ⟨‖g_C − g‖²⟩/⟨‖g‖²⟩.
        energy: by M3 = ⟨(E_C − E)²⟩, in squared units of E.
    """

    gradient: Tensor
    energy: Tensor


def necessity(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, parts: Sequence[str] = UNITS
) -> Scores:
    """M1 and M3 of the network without one part, (len(parts), h).

    It is fooled by cancellation, and does not see that two parts can stand in for each other.

    Args:
        model: the network, float64.
        x: (B, d_x), of one level.
        y: (B, d).
        t: (B,).
        fill: what stands in for ablated parts.
        parts: some of `UNITS` and `GATES`.
    """
    kept = whole(model)
    return _scores(model, x, y, t, [toggled(model, x, y, t, kept, fill, part) for part in parts])


def sufficiency(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, parts: Sequence[str] = UNITS
) -> Scores:
    """By how much M1 and M3 fall if one part joins a network without all of its kind, (len(parts), h).

    Negative where a part alone leads further astray than none. Arguments as in `necessity`.
    """
    found, without = [], []
    for part in parts:
        kept = _without(whole(model), part)
        found.append(toggled(model, x, y, t, kept, fill, part))
        without.append(distances(model, x, y, t, kept, fill))
    alone, none = (_scores(model, x, y, t, each) for each in (found, without))
    return Scores(none.gradient - alone.gradient, none.energy - alone.energy)


def input_necessity(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, groups: Tensor) -> Scores:
    """M1 and M3 of the network without a group of inputs, each (G,).

    Args:
        model: the network, float64.
        x: (B, d_x), of one level.
        y: (B, d).
        t: (B,).
        fill: what stands in for ablated inputs.
        groups: which entries of [x; y] belong to each, (G, d_x + d), or (G, B, d_x + d) if that depends on
            the point, bool.
    """
    return _of_inputs(model, x, y, t, fill, ~groups)


def input_sufficiency(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, groups: Tensor
) -> Scores:
    """By how much M1 and M3 fall if a group of inputs joins a network without inputs, each (G,).

    Without inputs there is no gradient: M1 is 1. Arguments as in `input_necessity`.
    """
    alone = _of_inputs(model, x, y, t, fill, groups)
    none = _of_inputs(model, x, y, t, fill, torch.zeros_like(groups[:1]))
    return Scores(none.gradient - alone.gradient, none.energy - alone.energy)


def distances(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, kept: Parts, fill: Parts) -> Distances:
    """How far given circuits are from the whole network, by one pass each.

    Args:
        model: the network.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        kept: (M, 1, n) or (M, B, n) for some parts and (n,) for others, or (n,) for one circuit.
        fill: from `fills`.

    Returns:
        (M, B) each; M is 1 for one circuit.
    """
    intact, gradient = model.energy_and_gradient(x, y, t)
    count = max(len(part) if part.ndim > 1 else 1 for part in kept)
    step = _at_once(CHUNK_BYTES, len(y) * model.hidden * y.element_size())
    found = []
    for start in range(0, count, step):
        some = Parts(*(part[start : start + step] if part.ndim > 1 else part for part in kept))
        energy, moved = ablated(model, x, y, t, some, fill)
        found.append((energy - intact, (moved - gradient).square().sum(-1)))
    return Distances(*(torch.cat(each).reshape(count, -1) for each in zip(*found, strict=True)))


def toggled(
    model: EnergyMLP,
    x: Tensor,
    y: Tensor,
    t: Tensor,
    kept: Parts,
    fill: Parts,
    part: str,
    gradient: bool = True,
) -> Distances:
    """How far a circuit is from the whole network once one part of a kind is ablated, or restored if it was.

    Equal to `distances` with one mask per part.

    Args:
        model: the network.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        kept: one circuit, masks (n,) of 0 and 1.
        fill: from `fills`.
        part: one of `UNITS` and `GATES`.
        gradient: whether gradients are wanted.

    Returns:
        (h, B) each.

    Raises:
        ConfigError: no such part.
    """
    intact, slope = model.energy_and_gradient(x, y, t)
    energy, base = ablated(model, x, y, t, kept, fill)
    found = []
    for rows, moved, effect in _effects(model, x, y, t, kept, fill, part, gradient):
        apart = (energy - intact)[rows, None] + moved
        missed = effect + (base - slope)[rows, None] if gradient else effect
        found.append((apart.mT, missed.square().sum(-1).mT))
    return Distances(*(torch.cat(each, 1) for each in zip(*found, strict=True)))


def effect_products(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, part: str) -> Tensor:
    """⟨(g'_i − g)·(g'_j − g)⟩ over points, the Gram matrix of what single ablations change, (h, h).

    Arguments as in `toggled`.
    """
    gram = y.new_zeros(model.hidden, model.hidden)
    for _, _, effect in _effects(model, x, y, t, whole(model), fill, part):
        flat = effect.transpose(0, 1).flatten(1)
        gram.addmm_(flat, flat.mT)
    return gram / len(y)


class _State(NamedTuple):
    """A circuit at some points: tuples over layers 1 … 3, each (b, h), index 0 unused.

    `pre` is before the level's gain, `value` after swish, `slope` c = ∂(activation)/∂pre of what is kept and
    `cotangent` ∂E/∂(activation). Index 4 of `read` is ∂E/∂fc4 = 2 fc4, the others c ⊙ cotangent.
    """

    pre: tuple
    z: tuple
    gain: tuple
    value: tuple
    slope: tuple
    cotangent: tuple
    read: tuple
    output: Tensor


def _effects(
    model: EnergyMLP,
    x: Tensor,
    y: Tensor,
    t: Tensor,
    kept: Parts,
    fill: Parts,
    part: str,
    gradient: bool = True,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For some points at a time: which, how E changes, (b, h), and the gradient, (b, h, d) or (b, h, 0)."""
    if part not in UNITS + GATES:
        raise ConfigError(f"part {part!r} is unknown; use one of {', '.join(UNITS + GATES)}")
    layer, width, size = int(part[-1]), model.hidden, y.element_size()
    weight = model.parameters[f"fc{layer + 1}.weight"]
    points = _at_once(TANGENT_BYTES, model.dim_y * width * size)
    for start in range(0, len(y), points):
        rows = slice(start, start + points)
        here = Parts(*(value[rows] for value in fill))
        state = _state(model, x[rows], y[rows], t[rows], kept, here)
        move, bend = _toggle(model, t[rows], kept, here, state, part)
        energies, effects = move.new_empty(move.shape), move.new_empty(*move.shape, model.dim_y * gradient)
        own, above = _tangents(model, kept, state, layer) if gradient else (None, None)
        units = _at_once(CHUNK_BYTES, len(move) * width * size)
        for first in range(0, width, units):
            some = slice(first, first + units)
            columns = weight[:, some].mT
            moved = move[:, some].mT.unsqueeze(-1) * columns.unsqueeze(1)
            energy, change = _onward(model, kept, state, layer + 1, moved, gradient)
            energies[:, some] = energy.mT
            if not gradient:
                continue
            # (units, b): what the unit's own input now means to E.
            felt = ((state.read[layer + 1] + change) @ columns.unsqueeze(-1)).squeeze(-1)
            effect = change.transpose(0, 1) @ above.mT
            effects[:, some] = effect.addcmul_((bend[:, some] * felt.mT).unsqueeze(-1), own[..., some].mT)
        yield rows, energies, effects


def _state(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, kept: Parts, fill: Parts) -> _State:
    gain2, bias2, gain3, bias3 = (model.at_level(table, t) for table in model.modulations)
    gain = (None, 1.0, mixed(kept.gate2, gain2, fill.gate2[:, 0]), mixed(kept.gate3, gain3, fill.gate3[:, 0]))
    bias = (None, 0.0, mixed(kept.gate2, bias2, fill.gate2[:, 1]), mixed(kept.gate3, bias3, fill.gate3[:, 1]))
    inputs = mixed(kept.inputs, torch.cat([x, y], -1), fill.inputs)
    pre, z, value, slope = ([None] for _ in range(4))
    for layer in (1, 2, 3):
        alive = getattr(kept, f"h{layer}")
        pre.append(model.layer(f"fc{layer}", inputs))
        z.append(pre[layer] * gain[layer] + bias[layer])
        value.append(F.silu(z[layer]))
        slope.append(alive * gain[layer] * swish_slope(z[layer]))
        inputs = mixed(alive, value[layer], getattr(fill, f"h{layer}"))
    output = model.layer("fc4", inputs)
    cotangent, read = [None] * 4, [None] * 4 + [2 * output]
    for layer in (3, 2, 1):
        cotangent[layer] = read[layer + 1] @ model.parameters[f"fc{layer + 1}.weight"]
        read[layer] = slope[layer] * cotangent[layer]
    return _State(*map(tuple, (pre, z, gain, value, slope, cotangent, read)), output)


def _toggle(
    model: EnergyMLP, t: Tensor, kept: Parts, fill: Parts, state: _State, part: str
) -> tuple[Tensor, Tensor]:
    """By how much each part's toggling moves the activation of its unit, and the slope of it, (b, h) each."""
    layer = int(part[-1])
    alive = getattr(kept, f"h{layer}")
    if part in UNITS:
        turned = 1 - 2 * alive
        slope = state.gain[layer] * swish_slope(state.z[layer])
        return turned * (state.value[layer] - getattr(fill, part)), turned * slope
    other = 1 - getattr(kept, part)
    gain, bias = (model.at_level(table, t) for table in model.modulations[2 * layer - 4 : 2 * layer - 2])
    gain = mixed(other, gain, getattr(fill, part)[:, 0])
    z = state.pre[layer] * gain + mixed(other, bias, getattr(fill, part)[:, 1])
    return alive * (F.silu(z) - state.value[layer]), alive * gain * swish_slope(z) - state.slope[layer]


def _onward(
    model: EnergyMLP, kept: Parts, state: _State, layer: int, moved: Tensor, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Change of E, (m, b), and of `read` of a layer, (m, b, ·), by a change of what the layer reads."""
    if layer == 4:
        return (moved * (2 * state.output + moved)).sum(-1), 2 * moved
    weight, alive = model.parameters[f"fc{layer + 1}.weight"], getattr(kept, f"h{layer}")
    z = torch.addcmul(state.z[layer], moved, state.gain[layer])
    gate = torch.sigmoid(z)
    value = z.mul_(gate)
    change = (value - state.value[layer]).mul_(alive)
    energy, above = _onward(model, kept, state, layer + 1, F.linear(change, weight), gradient)
    if not gradient:
        return energy, None
    slope = torch.addcmul(gate, value, 1 - gate).mul_(alive * state.gain[layer])
    felt = above @ weight
    return energy, felt.mul_(slope).addcmul_(slope.sub_(state.slope[layer]), state.cotangent[layer])


def _tangents(model: EnergyMLP, kept: Parts, state: _State, layer: int) -> tuple[Tensor, Tensor]:
    """∂(what a layer reads)/∂y, (b, d, h) or (1, d, h), and of the next one, (b, d, ·), along the circuit."""
    above = (model.parameters["fc1.weight"][:, model.dim_x :] * kept.inputs[model.dim_x :]).mT.unsqueeze(0)
    for below in range(1, layer + 1):
        own = above
        above = F.linear(own * state.slope[below].unsqueeze(-2), model.parameters[f"fc{below + 1}.weight"])
    return own, above


def _without(kept: Parts, part: str) -> Parts:
    return kept._replace(**{part: torch.zeros_like(getattr(kept, part))})


def _of_inputs(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, kept: Tensor) -> Scores:
    masks = kept.to(y.dtype) if kept.ndim == 3 else kept.to(y.dtype).unsqueeze(1)
    found = distances(model, x, y, t, whole(model)._replace(inputs=masks), fill)
    return Scores(*(row[0] for row in _scores(model, x, y, t, [found])))


def _scores(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, found: Sequence[Distances]) -> Scores:
    scale = model.energy_and_gradient(x, y, t)[1].square().sum(-1).mean()
    gradient = torch.stack([each.gradient.mean(-1) for each in found])
    return Scores(gradient / scale, torch.stack([each.energy.square().mean(-1) for each in found]))


def _at_once(budget: int, each: int) -> int:
    return max(1, budget // each)
