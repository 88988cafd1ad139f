"""Parameter gradients of IRED's network as products of factors, never as vectors of parameters.

The gradient of E with respect to the weight of an affine layer is the outer product δaᵀ of its input a and of
the cotangent δ = ∂E/∂(its output), and with respect to its bias δ. So an inner product of two such gradients
is (δ·δ′)(1 + a·a′). Along a displacement v of y both factors move, with velocities ȧ and δ̇, and

    ∇_θ(vᵀ∇_yE) = d/ds ∇_θE(y + sv) = δ̇aᵀ + δȧᵀ, with δ̇ for the bias.

All of it is written out; autograd takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.ntk.names import LAYERS
from iredinterp.energy import checked_levels
from iredinterp.ired.model import Activations, EnergyMLP, level_embedding, swish_curvature, swish_slope


class Points(NamedTuple):
    """Where a kernel is evaluated: x (B, d_x), y (B, d), t an integer or (B,)."""

    x: Tensor
    y: Tensor
    t: Tensor | int


class LayerFactors(NamedTuple):
    """Factors of one layer at B points along K directions.

    Attributes:
        inputs: a, (B, in).
        cotangents: δ, (B, out).
        input_tangents: ȧ, (K, B, in), or (K, 1, in) if the same at every point; None where y does not reach.
        cotangent_tangents: δ̇, (K, B, out).
    """

    inputs: Tensor
    cotangents: Tensor
    input_tangents: Tensor | None
    cotangent_tangents: Tensor

    def at(self, rows: slice) -> LayerFactors:
        """Those of some of the points."""
        moving = self.input_tangents
        if moving is not None and moving.shape[1] > 1:
            moving = moving[:, rows]
        return LayerFactors(
            self.inputs[rows], self.cotangents[rows], moving, self.cotangent_tangents[:, rows]
        )

    def products(self, other: LayerFactors) -> Tensor:
        """φ(v_k)·φ′(v_k), (K, B, B′), of B points with B′ others along the same directions."""
        total = (self.cotangent_tangents @ other.cotangent_tangents.mT) * (1 + self.inputs @ other.inputs.mT)
        if self.input_tangents is None:
            return total
        total += (self.cotangent_tangents @ other.cotangents.mT) * (self.inputs @ other.input_tangents.mT)
        total += (self.cotangents @ other.cotangent_tangents.mT) * (self.input_tangents @ other.inputs.mT)
        total += (self.cotangents @ other.cotangents.mT) * (self.input_tangents @ other.input_tangents.mT)
        return total


@dataclass(frozen=True)
class Factors:
    """What parameter gradients at B points are made of.

    Attributes:
        model: the network.
        activations: of its forward pass.
        inputs: a of every layer, (B, in).
        time_slope: gelu′ between the two time layers, (B, 128).
    """

    model: EnergyMLP
    activations: Activations
    inputs: Mapping[str, Tensor]
    time_slope: Tensor

    @classmethod
    def of(cls, model: EnergyMLP, points: Points) -> Factors:
        """Those of one network (no seed axis).

        Raises:
            ValueError: no such level, or levels of another shape than the points.
        """
        x, y = points.x, points.y
        t = checked_levels(y, points.t, model.schedule)
        a = model.activations(x, y, t)
        sinusoid = level_embedding(model.schedule.levels).to(y)
        first = model.layer("time_mlp.1", sinusoid)
        hidden = F.gelu(first)
        embedding = model.layer("time_mlp.3", hidden)
        inputs = {
            "fc1": torch.cat([x, y], dim=-1),
            "fc2": a.h1,
            "fc3": a.h2,
            "fc4": a.h3,
            "t_map_fc2": embedding[t],
            "t_map_fc3": embedding[t],
            "time_mlp.1": sinusoid[t],
            "time_mlp.3": hidden[t],
        }
        return cls(model, a, inputs, _gelu_slope(first)[t])

    def cotangents(self, outputs: Tensor) -> dict[str, Tensor]:
        """δ of every layer, (…, B, out), for cotangents of fc4's outputs, (…, B, d)."""
        a = self.activations
        z3 = (outputs @ self._weight("fc4")) * self._slopes[2]
        z2 = ((z3 * a.gain3) @ self._weight("fc3")) * self._slopes[1]
        z1 = ((z2 * a.gain2) @ self._weight("fc2")) * self._slopes[0]
        f2, f3 = self._affine
        film2, film3 = torch.cat([z2 * f2, z2], -1), torch.cat([z3 * f3, z3], -1)
        hidden = {"fc1": z1, "fc2": z2 * a.gain2, "fc3": z3 * a.gain3, "fc4": outputs}
        return hidden | self._level_cotangents(film2, film3)

    @cached_property
    def energy_cotangents(self) -> dict[str, Tensor]:
        """δ of every layer for E = ‖fc4(h₃)‖², (B, out)."""
        return self.cotangents(2 * self.activations.output)

    def of_outputs(self, weights: Tensor) -> dict[str, Tensor]:
        """δ of every layer, (K, B, out), for K combinations of fc4's outputs, (K, d)."""
        return self.cotangents(weights.unsqueeze(1).expand(-1, len(self.inputs["fc1"]), -1))

    def along(self, directions: Tensor) -> dict[str, LayerFactors]:
        """Factors of ∇_θ(vᵀ∇_yE) of every layer for K directions v, (K, d)."""
        a, (s1, s2, s3) = self.activations, self._slopes
        (b1, b2, b3), (f2, f3) = self._bends, self._affine
        z3, z2 = self._pre_activation_cotangents
        w2, w3, w4 = (self._weight(name) for name in ("fc2", "fc3", "fc4"))
        first = torch.cat([directions.new_zeros(len(directions), self.model.dim_x), directions], -1)
        z1_dot = (first @ self._weight("fc1").mT).unsqueeze(1)
        h1_dot = z1_dot * s1
        f2_dot = h1_dot @ w2.mT
        z2_dot = f2_dot * a.gain2
        h2_dot = z2_dot * s2
        f3_dot = h2_dot @ w3.mT
        z3_dot = f3_dot * a.gain3
        h3_dot = z3_dot * s3
        outputs = 2 * (h3_dot @ w4.mT)
        # From here on velocities of cotangents, back through the network.
        z3_bar = (outputs @ w4) * s3 + z3_dot * b3
        f3_bar = z3_bar * a.gain3
        z2_bar = (f3_bar @ w3) * s2 + z2_dot * b2
        f2_bar = z2_bar * a.gain2
        z1_bar = (f2_bar @ w2) * s1 + z1_dot * b1
        film2 = torch.cat([z2_bar * f2 + z2 * f2_dot, z2_bar], -1)
        film3 = torch.cat([z3_bar * f3 + z3 * f3_dot, z3_bar], -1)
        moving = {"fc1": first.unsqueeze(1), "fc2": h1_dot, "fc3": h2_dot, "fc4": h3_dot}
        bars = {"fc1": z1_bar, "fc2": f2_bar, "fc3": f3_bar, "fc4": outputs}
        bars |= self._level_cotangents(film2, film3)
        still = self.energy_cotangents
        return {
            name: LayerFactors(self.inputs[name], still[name], moving.get(name), bars[name])
            for name in LAYERS
        }

    @cached_property
    def _slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        a = self.activations
        return swish_slope(a.z1), swish_slope(a.z2), swish_slope(a.z3)

    @cached_property
    def _bends(self) -> tuple[Tensor, Tensor, Tensor]:
        """∂E/∂h_l ⊙ swish″(z_l)."""
        a = self.activations
        r = self.model.cotangents(a)
        return r.h1 * swish_curvature(a.z1), r.h2 * swish_curvature(a.z2), r.h3 * swish_curvature(a.z3)

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        """fc2(h₁) and fc3(h₂), before gain and bias."""
        return self.model.layer("fc2", self.activations.h1), self.model.layer("fc3", self.activations.h2)

    @cached_property
    def _pre_activation_cotangents(self) -> tuple[Tensor, Tensor]:
        """∂E/∂z₃ and ∂E/∂z₂: what the biases of FiLM see."""
        hidden = self.model.hidden
        return tuple(self.energy_cotangents[name][..., hidden:] for name in ("t_map_fc3", "t_map_fc2"))

    def _level_cotangents(self, film2: Tensor, film3: Tensor) -> dict[str, Tensor]:
        """δ of the layers that see the level alone, from those of FiLM's gains and biases; linear in them."""
        embedding = film2 @ self._weight("t_map_fc2") + film3 @ self._weight("t_map_fc3")
        first = (embedding @ self._weight("time_mlp.3")) * self.time_slope
        return {"t_map_fc2": film2, "t_map_fc3": film3, "time_mlp.1": first, "time_mlp.3": embedding}

    def _weight(self, name: str) -> Tensor:
        return self.model.parameters[f"{name}.weight"]


def _gelu_slope(z: Tensor) -> Tensor:
    """First derivative of the exact gelu, Φ(z) + zΦ′(z)."""
    return torch.special.ndtr(z) + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
