"""Tangent kernels of any function f(θ, …), through torch.func.

What the factors of `iredinterp.analyses.ntk.factors` are held against, and the way for an energy of another
architecture. Every function here is given as (parameters, inputs of one point…) → values of any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vjp, vmap

from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import Schedule

Function = Callable[..., Tensor]


def mlp_energy(schedule: Schedule) -> Function:
    """E(θ, x, y, t) of one point for the parameters of an `EnergyMLP`."""

    def energy(parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return EnergyMLP(parameters, schedule).energy(x[None], y[None], t[None])[0]

    return energy


def gradient_field(energy: Function) -> Function:
    """∇_yE(θ, x, y, …) of an energy E(θ, x, y, …)."""
    return torch.func.grad(energy, argnums=2)


def kernel_blocks(
    function: Function,
    parameters: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    others: tuple[Tensor, ...] | None = None,
) -> dict[str, Tensor]:
    """Θ = J J′ᵀ parameter by parameter, from per-point Jacobians.

    Args:
        function: f, with k values in all.
        parameters: θ by name.
        inputs: of B points, each (B, …).
        others: of B′ points; the same if not given.

    Returns:
        By name, (B, B′, k, k′); their sum is the kernel.
    """
    one = _jacobians(function, parameters, inputs)
    two = one if others is None else _jacobians(function, parameters, others)
    return {name: torch.einsum("bip,cjp->bcij", one[name], two[name]) for name in parameters}


def kernel_products(
    function: Function,
    parameters: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    directions: Tensor,
) -> Tensor:
    """Θ(p, p′)v, by jvp after vjp: no Jacobian is built.

    Args:
        function: f.
        parameters: θ by name.
        inputs: of B points p, each (B, …).
        others: of as many points p′.
        directions: v, (K, *values).

    Returns:
        (B, K, *values).
    """

    def single(one: tuple[Tensor, ...], two: tuple[Tensor, ...]) -> Tensor:
        _, pull = vjp(lambda theta: function(theta, *two), dict(parameters))

        def product(v: Tensor) -> Tensor:
            return jvp(lambda theta: function(theta, *one), (dict(parameters),), pull(v))[1]

        return vmap(product)(directions)

    return vmap(single)(inputs, others)


def _jacobians(
    function: Function, parameters: Mapping[str, Tensor], inputs: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """∂f/∂θ by name, (B, k, parameters)."""
    axes = (None, *(0 for _ in inputs))
    found = vmap(jacrev(function), in_dims=axes)(dict(parameters), *inputs)
    return {name: value.reshape(len(value), -1, parameters[name].numel()) for name, value in found.items()}
