"""IRED's energy model for matrix tasks, E(x, y, t) = ‖fc4(h₃)‖², with its gradient in closed form.

Three swish layers on [x; y]; the level enters as a gain and a bias (FiLM) on layers 2 and 3. The
gradient is written out rather than left to autograd, so that training differentiates once instead of
twice and sampling builds no graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.ired.schedule import Schedule, cosine_schedule

TIME_WIDTH = 128


def parameter_shapes(dim_x: int, dim_y: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Official state-dict names of the energy model and their shapes."""
    layers = {
        "time_mlp.1": (TIME_WIDTH, TIME_WIDTH),
        "time_mlp.3": (TIME_WIDTH, TIME_WIDTH),
        "fc1": (hidden, dim_x + dim_y),
        "fc2": (hidden, hidden),
        "fc3": (hidden, hidden),
        "fc4": (dim_y, hidden),
        "t_map_fc2": (2 * hidden, TIME_WIDTH),
        "t_map_fc3": (2 * hidden, TIME_WIDTH),
    }
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in layers.items()}


def random_parameters(dim_x: int, dim_y: int, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Untrained parameters from the law of `torch.nn.Linear`, U(±1/√fan_in).

    Args:
        dim_x: d_x.
        dim_y: d.
        hidden: h.
        generator: source of randomness.

    Returns:
        float32 tensors by official name, of the shapes in `parameter_shapes`.
    """
    shapes = parameter_shapes(dim_x, dim_y, hidden)
    parameters = {}
    for name, shape in shapes.items():
        fan_in = shapes[name.replace(".bias", ".weight")][1]
        parameters[name] = (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)
    return parameters


class Activations(NamedTuple):
    """Hidden state of a forward pass, each (…, B, h) but `output`, (…, B, d_y)."""

    z1: Tensor
    z2: Tensor
    z3: Tensor
    h1: Tensor
    h2: Tensor
    h3: Tensor
    gain2: Tensor
    gain3: Tensor
    output: Tensor


class Cotangents(NamedTuple):
    """∂E/∂h_l for the three hidden layers, each (…, B, h)."""

    h1: Tensor
    h2: Tensor
    h3: Tensor


def swish_slope(z: Tensor) -> Tensor:
    """First derivative of swish, z·sigmoid(z).

    Args:
        z: (..., h).

    Returns:
        (..., h).
    """
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def swish_curvature(z: Tensor) -> Tensor:
    """Second derivative of swish, z·sigmoid(z).

    Args:
        z: (..., h).

    Returns:
        (..., h).
    """
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def level_embedding(levels: int) -> Tensor:
    """Sinusoidal embedding of the raw integers 0 … K−1.

    Args:
        levels: K.

    Returns:
        (K, 128), float32 as released.

    Source:
        Vaswani et al. 2017 with 64 frequencies 10000^(−i/63), sine block then cosine block.
    """
    half = TIME_WIDTH // 2
    exponents = torch.arange(half) * -(math.log(10000) / (half - 1))
    # A float32 exponential is rounded as the processor likes: MKL's for AVX2 is a unit off in two of the 64.
    # The float64 one, rounded, is what the released code's float32 gives on the other kinds.
    frequencies = exponents.double().exp().float()
    angles = torch.arange(levels)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@dataclass(frozen=True)
class EnergyMLP:
    """The energy of one trained network, or of S networks stacked along a leading seed axis.

    Args:
        parameters: official state-dict names without prefix; each of the shape in `parameter_shapes`,
            or (S, …) for a stack, in which case x, y and t carry the same leading axis.
        schedule: the levels the network was trained on.

    Attributes:
        modulations: (1 + gain₂, bias₂, 1 + gain₃, bias₃) of every level, each (…, K, h).

    Source:
        Du, Mao & Tenenbaum, "Learning Iterative Reasoning through Energy Diffusion", ICML 2024; class
        `EBM` of the official release (commit 3d74b85).
    """

    parameters: Mapping[str, Tensor]
    schedule: Schedule
    modulations: tuple[Tensor, Tensor, Tensor, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        # Not on first use: inside a torch.func transform that would keep the transform's wrappers.
        object.__setattr__(self, "modulations", self._modulations())

    @classmethod
    def random(cls, dim_x: int, dim_y: int, hidden: int, generator: torch.Generator) -> EnergyMLP:
        """An untrained network on the official ten levels, float32."""
        schedule = cosine_schedule().to(torch.float32)
        return cls(random_parameters(dim_x, dim_y, hidden, generator), schedule)

    @property
    def dim_y(self) -> int:
        """d, number of entries of y."""
        return self.parameters["fc4.weight"].shape[-2]

    @property
    def dim_x(self) -> int:
        """d_x, number of entries of x."""
        return self.parameters["fc1.weight"].shape[-1] - self.dim_y

    @property
    def hidden(self) -> int:
        """h, hidden width."""
        return self.parameters["fc1.weight"].shape[-2]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self.parameters["fc1.weight"].dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.parameters["fc1.weight"].device

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> EnergyMLP:
        """The same network in another precision or on another device."""
        parameters = {name: value.to(device, dtype) for name, value in self.parameters.items()}
        return EnergyMLP(parameters, self.schedule.to(dtype, device))

    def layer(self, name: str, inputs: Tensor) -> Tensor:
        """Affine map `name`, (…, B, in) → (…, B, out), for one network or a stack."""
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        if weight.ndim == 2:
            return F.linear(inputs, weight, bias)
        return torch.baddbmm(bias.unsqueeze(-2), inputs, weight.mT)

    def _modulations(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The official class computes the sinusoid in float32 whatever the precision of the network.
        embedding = level_embedding(self.schedule.levels).to(self.device, self.dtype)
        embedding = embedding.expand(*self.parameters["fc1.bias"].shape[:-1], -1, -1)
        embedding = self.layer("time_mlp.3", F.gelu(self.layer("time_mlp.1", embedding)))
        gain2, bias2 = self.layer("t_map_fc2", embedding).chunk(2, dim=-1)
        gain3, bias3 = self.layer("t_map_fc3", embedding).chunk(2, dim=-1)
        return 1 + gain2, bias2, 1 + gain3, bias3

    def activations(self, x: Tensor, y: Tensor, t: Tensor | int) -> Activations:
        """All intermediate values at (x, y, t).

        Args:
            x: (…, B, d_x), condition.
            y: (…, B, d), candidate answer at the scale of level t.
            t: level, one integer or an integer tensor (…, B) with values in 0 … K−1.
        """
        gain2, bias2, gain3, bias3 = (self.at_level(table, t) for table in self.modulations)
        z1 = self.layer("fc1", torch.cat([x, y], dim=-1))
        h1 = F.silu(z1)
        z2 = self.layer("fc2", h1) * gain2 + bias2
        h2 = F.silu(z2)
        z3 = self.layer("fc3", h2) * gain3 + bias3
        h3 = F.silu(z3)
        return Activations(z1, z2, z3, h1, h2, h3, gain2, gain3, self.layer("fc4", h3))

    def energy(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """E(x, y, t) = ‖fc4(h₃)‖², (…, B). Arguments as in `activations`."""
        return self.activations(x, y, t).output.square().sum(-1)

    def cotangents(self, a: Activations) -> Cotangents:
        """∂E/∂h₁, ∂E/∂h₂, ∂E/∂h₃ by the chain rule."""
        r3 = (2 * a.output) @ self.parameters["fc4.weight"]
        r2 = (r3 * swish_slope(a.z3) * a.gain3) @ self.parameters["fc3.weight"]
        r1 = (r2 * swish_slope(a.z2) * a.gain2) @ self.parameters["fc2.weight"]
        return Cotangents(r1, r2, r3)

    def energy_and_gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """E, (…, B), and ∇_y E, (…, B, d). Arguments as in `activations`."""
        a = self.activations(x, y, t)
        input_rows = self.parameters["fc1.weight"][..., self.dim_x :]
        gradient = (self.cotangents(a).h1 * swish_slope(a.z1)) @ input_rows
        return a.output.square().sum(-1), gradient

    def at_level(self, table: Tensor, t: Tensor | int) -> Tensor:
        """Rows of a table of levels, (…, K, h) → (…, B, h), or (…, 1, h) for one integer."""
        if isinstance(t, int):
            return table[..., t : t + 1, :]
        # A product with the indicator of the level: unlike indexing it serves stacks, and vmap allows it.
        indicator = t.unsqueeze(-1) == torch.arange(self.schedule.levels, device=t.device)
        return indicator.to(table.dtype) @ table
