"""Wiring by hand: circuits and decoys laid unit by unit into the weights of IRED's network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.ired.model import TIME_WIDTH, level_embedding
from iredinterp.truth.planted.truth import GatedBranch, SaturatedUnit, UnitPair

LAYERS = (1, 2, 3)
# Several times what a wire is read with, so that one of a pair outweighs a typical unit of the circuit.
CANCELLING_WEIGHT = 8.0
SATURATED_SHIFT = 1.0
# swish' vanishes at −1 − W(1/e), W Lambert's function, where swish is −W(1/e).
SWISH_MINIMUM_AT = -1.2784645427610738
SWISH_MINIMUM = SWISH_MINIMUM_AT + 1


@dataclass
class Draft:
    """A network under construction, slots in order of creation. Layer l is fc_l; weights[4] is fc4's."""

    dim_in: int
    dim_y: int
    hidden: int
    levels: int
    pairs: list[UnitPair] = field(default_factory=list)
    saturated: list[SaturatedUnit] = field(default_factory=list)
    branches: list[GatedBranch] = field(default_factory=list)

    def __post_init__(self):
        sizes = {1: (self.hidden, self.dim_in), 4: (self.dim_y, self.hidden)}
        shapes = {layer: sizes.get(layer, (self.hidden, self.hidden)) for layer in (*LAYERS, 4)}
        self.weights = {layer: torch.zeros(shape, dtype=torch.float64) for layer, shape in shapes.items()}
        self.biases = {layer: torch.zeros(self.hidden, dtype=torch.float64) for layer in LAYERS}
        self.gains = {layer: torch.ones(self.levels, self.hidden, dtype=torch.float64) for layer in LAYERS}
        self.roles = {layer: ["unused"] * self.hidden for layer in LAYERS}
        self.signals = {layer: [""] * self.hidden for layer in LAYERS}
        self.directions = {layer: torch.full((self.hidden,), -1) for layer in LAYERS}

    def lay_circuit(
        self,
        eigenbasis: Tensor,
        slope: Tensor,
        scale: Tensor,
        spectrum: Tensor,
        saturated: list[int],
        gated: list[int],
        extra: Tensor,
    ) -> None:
        """Lay ½ Σ_i a_i(t) (Qᵀ(y − √ᾱ_t Bx))_i², its residuals being the outputs of fc4.

        Args:
            eigenbasis: Q, (d, d).
            slope: B, (d, d_x).
            scale: √ᾱ_t, (K,).
            spectrum: a, (K, d), of the branches that are always open.
            saturated: directions whose residual a saturated unit centres.
            gated: directions with a gated branch.
            extra: (K, d), curvature of the gated branches.
        """
        y = self.wires(1, "y", torch.cat([torch.zeros_like(slope), eigenbasis.mT], 1))
        mean = self.wires(1, "mean", torch.cat([eigenbasis.mT @ slope, torch.zeros_like(eigenbasis)], 1))
        error = self.wires(2, "y", y) - self.wires(2, "mean", mean, gain=scale[:, None])
        bias = torch.zeros(self.dim_y, dtype=torch.float64)
        for direction in saturated:
            error[direction] += self.saturate(direction)
            bias[direction] = SATURATED_SHIFT
        residual = self.wires(3, "error", error, gain=(spectrum / 2).sqrt(), bias=bias)
        for direction in gated:
            residual[direction] += self.gate(direction, error, bias, spectrum, extra)
        self.weights[4] = residual

    def take(self, layer: int, role: str, count: int) -> Tensor:
        """Slots of new units, (count,)."""
        start = self.roles[layer].index("unused") if count else 0
        self.roles[layer][start : start + count] = [role] * count
        return torch.arange(start, start + count)

    def wires(
        self,
        layer: int,
        signal: str,
        rows: Tensor,
        gain: Tensor | float = 1.0,
        bias: Tensor | float = 0.0,
        directions: Tensor | None = None,
        role: str = "circuit",
    ) -> Tensor:
        """Carry gain · (rows · (layer below) + bias) through a layer; returns the rows that read it above."""
        count = len(rows)
        units = self.take(layer, role, 2 * count)
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(count)
        self.weights[layer][units] = signs[:, None] * rows.repeat(2, 1)
        self.biases[layer][units] = signs * torch.as_tensor(bias, dtype=torch.float64).expand(count).repeat(2)
        self.gains[layer][:, units] = (
            torch.as_tensor(gain, dtype=torch.float64).expand(self.levels, count).repeat(1, 2)
        )
        directions = torch.arange(count) if directions is None else directions
        self.directions[layer][units] = directions.repeat(2)
        self.signals[layer][int(units[0]) : int(units[-1]) + 1] = [signal] * len(units)
        values = torch.zeros(count, self.hidden, dtype=torch.float64)
        values[torch.arange(count).repeat(2), units] = signs
        return values

    def saturate(self, direction: int) -> Tensor:
        """Add a saturated unit and its carrier; returns the row that reads −shift from the carrier."""
        (unit,), (carrier,) = self.take(1, "saturated", 1).tolist(), self.take(2, "circuit", 1).tolist()
        self.biases[1][unit] = 1.0
        self.weights[2][carrier, unit] = SWISH_MINIMUM_AT / torch.sigmoid(self.biases[1][unit])
        self.saturated.append(SaturatedUnit(unit, carrier, direction, SATURATED_SHIFT))
        row = torch.zeros(self.hidden, dtype=torch.float64)
        row[carrier] = -SATURATED_SHIFT / SWISH_MINIMUM
        return row

    def gate(self, direction: int, rows: Tensor, bias: Tensor, base: Tensor, extra: Tensor) -> Tensor:
        """Add a gated branch along one direction; returns the row that reads it."""
        base, extra = base[:, direction], extra[:, direction]
        gain = ((base + extra) / 2).sqrt() - (base / 2).sqrt()
        part = slice(direction, direction + 1)
        (row,) = self.wires(
            3, "error", rows[part], gain[:, None], bias[part], torch.tensor([direction]), "gated"
        )
        plus, minus = row.nonzero().flatten().tolist()
        levels = tuple(extra.nonzero().flatten().tolist())
        self.branches.append(GatedBranch((plus, minus), direction, levels, extra))
        return row

    def add_dead_ends(self, layer: int, count: int, generator: torch.Generator) -> None:
        """Add units that read the circuit and that nobody reads."""
        units = self.take(layer, "dead_end", count)
        self.weights[layer][units] = self._random_reads(layer, count, generator)

    def add_cancelling_pairs(self, layer: int, count: int, generator: torch.Generator) -> None:
        """Add pairs of equal units that the circuit above reads with opposite weights."""
        reads = self._random_reads(layer, count, generator)
        first, second = self.take(layer, "cancelling", 2 * count).view(2, -1)
        self.weights[layer][first] = self.weights[layer][second] = reads
        above = self._carriers(layer + 1) if layer < 3 else torch.arange(self.dim_y)
        read = torch.randn(len(above), count, generator=generator, dtype=torch.float64)
        read = CANCELLING_WEIGHT * F.normalize(read, dim=0)
        self.weights[layer + 1][above[:, None], first] = read
        self.weights[layer + 1][above[:, None], second] = -read
        self._pair(layer, "cancelling", first, second)

    def split(self, layer: int, count: int, generator: torch.Generator) -> None:
        """Split random units of the circuit into two, each read with half the weight."""
        carriers = self._carriers(layer)
        units = carriers[torch.randperm(len(carriers), generator=generator)[:count]]
        copies = self.take(layer, "redundant", count)
        self.weights[layer][copies] = self.weights[layer][units]
        self.biases[layer][copies] = self.biases[layer][units]
        self.gains[layer][:, copies] = self.gains[layer][:, units]
        self.directions[layer][copies] = self.directions[layer][units]
        self.weights[layer + 1][:, units] /= 2
        self.weights[layer + 1][:, copies] = self.weights[layer + 1][:, units]
        for unit, copy in zip(units.tolist(), copies.tolist(), strict=True):
            self.roles[layer][unit] = "redundant"
            self.signals[layer][copy] = self.signals[layer][unit]
        self._pair(layer, "redundant", units, copies)

    def shuffle(self, generator: torch.Generator) -> None:
        """Give the units of each layer random slots."""
        slots = {}
        for layer in LAYERS:
            order = torch.randperm(self.hidden, generator=generator)
            slots[layer] = order.argsort().tolist()
            self.weights[layer] = self.weights[layer][order]
            self.biases[layer] = self.biases[layer][order]
            self.weights[layer + 1] = self.weights[layer + 1][:, order]
            self.gains[layer] = self.gains[layer][:, order]
            self.directions[layer] = self.directions[layer][order]
            self.roles[layer] = [self.roles[layer][unit] for unit in order.tolist()]
            self.signals[layer] = [self.signals[layer][unit] for unit in order.tolist()]

        def moved(layer, units):
            return tuple(slots[layer][unit] for unit in units)

        self.pairs = [replace(p, units=moved(p.layer, p.units)) for p in self.pairs]
        self.branches = [replace(b, units=moved(3, b.units)) for b in self.branches]
        self.saturated = [
            replace(s, unit=slots[1][s.unit], carrier=slots[2][s.carrier]) for s in self.saturated
        ]

    def parameters(self) -> dict[str, Tensor]:
        """Everything but the time embedding, under the official names."""
        named = {f"fc{layer}.weight": weight for layer, weight in self.weights.items()}
        named |= {f"fc{layer}.bias": bias for layer, bias in self.biases.items()}
        named["fc4.bias"] = torch.zeros(self.dim_y, dtype=torch.float64)
        for layer in (2, 3):
            weight = torch.zeros(2 * self.hidden, TIME_WIDTH, dtype=torch.float64)
            weight[: self.hidden, : self.levels] = self.gains[layer].mT - 1
            named[f"t_map_fc{layer}.weight"] = weight
            named[f"t_map_fc{layer}.bias"] = torch.zeros(2 * self.hidden, dtype=torch.float64)
        return named

    def _carriers(self, layer: int) -> Tensor:
        # Without a direction a unit of the circuit holds a constant.
        directed = (self.directions[layer] >= 0).tolist()
        roles = enumerate(self.roles[layer])
        return torch.tensor([unit for unit, role in roles if role == "circuit" and directed[unit]])

    def _random_reads(self, layer: int, count: int, generator: torch.Generator) -> Tensor:
        """Random unit rows over the inputs or over the circuit of the layer below, (count, …)."""
        below = self._carriers(layer - 1) if layer > 1 else torch.arange(self.dim_in)
        rows = torch.zeros(count, self.weights[layer].shape[1], dtype=torch.float64)
        weights = torch.randn(count, len(below), generator=generator, dtype=torch.float64)
        rows[:, below] = F.normalize(weights, dim=1)
        return rows

    def _pair(self, layer: int, role: str, first: Tensor, second: Tensor) -> None:
        slots = zip(first.tolist(), second.tolist(), strict=True)
        self.pairs += [UnitPair(layer, role, units) for units in slots]


def time_parameters(levels: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A time MLP that sends level t to the t-th unit vector, so that t_map's t-th column holds its gains.

    Args:
        levels: K.
        generator: source of randomness.

    Returns:
        The parameters of the time MLP by name, float64.
    """
    first = torch.randn(TIME_WIDTH, TIME_WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(TIME_WIDTH, generator=generator, dtype=torch.float64)
    features = F.gelu(F.linear(level_embedding(levels).to(torch.float64), first, bias))
    inverse = torch.linalg.pinv(features)
    # One step of Newton and Schulz: the pseudoinverse alone is off by its condition number, about 100.
    inverse = inverse @ (2 * torch.eye(levels, dtype=torch.float64) - features @ inverse)
    second = torch.zeros(TIME_WIDTH, TIME_WIDTH, dtype=torch.float64)
    second[:levels] = inverse.mT
    return {
        "time_mlp.1.weight": first,
        "time_mlp.1.bias": bias,
        "time_mlp.3.weight": second,
        "time_mlp.3.bias": torch.zeros(TIME_WIDTH, dtype=torch.float64),
    }
