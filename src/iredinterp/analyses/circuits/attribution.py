"""What gradients say of ablations: one backward pass for all units of a layer.

Attribution patching approximates the effect of an ablation by its first-order term; integrated gradients
average that term along the way from the activations of a layer to what stands in for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, ablated, whole
from iredinterp.analyses.circuits.exact import UNITS
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP

METRICS = ("energy", "gradient")


def attribution_patching(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts) -> Tensor:
    """(a'_j − a_j) ∂E/∂a_j, the first-order change of E by each ablation, (3, h, B).

    There is no such thing for M1: at the whole network it is at its minimum, 0, and its gradient vanishes.

    Args:
        model: the network.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        fill: what stands in for ablated parts.

    Source:
        Nanda 2023, "Attribution Patching"; on edges Syed, Rager & Conmy 2023, 2310.10348.
    """
    a = model.activations(x, y, t)
    values = zip(UNITS, model.cotangents(a), strict=True)
    return torch.stack([((getattr(fill, name) - getattr(a, name)) * slope).mT for name, slope in values])


def integrated_gradients(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, metric: str = "energy", steps: int = 10
) -> Tensor:
    """The same, averaged along the way on which a layer's units are ablated together, (3, h, B).

    Layers above are computed anew at every step. Summed over the units of a layer it gives, up to the error
    of the midpoint rule, what the metric changes by as the layer goes: E_C − E, or ‖g_C − g‖²/⟨‖g‖²⟩, whose
    mean is 1.

    Args:
        model: the network.
        x: (B, d_x), of one level.
        y: (B, d).
        t: (B,).
        fill: what stands in for ablated parts.
        metric: one of `METRICS`.
        steps: of the midpoint rule.

    Raises:
        ConfigError: no such metric, or no steps.

    Source:
        Sundararajan, Taly & Yan 2017; of activations as in Hanna, Pezzelle & Belinkov 2024, 2403.17806, who
        take 5 to 30 steps.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric {metric!r} is unknown; use one of {', '.join(METRICS)}")
    if steps < 1:
        raise ConfigError(f"steps: found {steps}, expected at least 1")
    gradient = model.energy_and_gradient(x, y, t)[1]
    scale = gradient.square().sum(-1).mean()
    total = y.new_zeros(len(UNITS), len(y), model.hidden)
    for layer, part in enumerate(UNITS):
        for step in range(steps):
            share = torch.full((len(y), model.hidden), 1 - (step + 0.5) / steps).to(y).requires_grad_()
            with torch.enable_grad():
                kept = whole(model)._replace(**{part: share})
                energy, found = ablated(model, x, y, t, kept, fill)
                value = energy if metric == "energy" else (found - gradient).square().sum(-1) / scale
                total[layer] -= torch.autograd.grad(value.sum(), share)[0]
    return total.mT / steps
