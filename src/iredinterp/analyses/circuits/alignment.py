"""Distributed alignment search: a subspace of a hidden layer that carries what x determines.

An interchange puts the part of the hidden state that lies in the subspace, taken from a source run, into the
run at the base. If the subspace carries the answer and nothing else, the network then has the gradient of the
source's x at the base's y, whatever y the source had.

The gradient is that of the network with the interchange as a function of the base's y. The source run is one
of two. Held fixed at a y′ of its own, its part of the state is a constant; only the answer may be in it, for
y′ would be wrong. Run at the base's y, it moves with y and passes gradient on, and the subspace may carry
anything that depends on x: the residual, or the energy itself. That is the weaker claim. In layer 3 fc4's row
space, of dimension d, always passes; and wherever a layer holds E as a weighted sum of units, as it may with
a bias in fc4, the one direction of the weights does.

Source:
    Geiger et al., "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
    Representations", CLeaR 2024 (arXiv:2303.02536).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.adam import Adam
from iredinterp.errors import ConfigError
from iredinterp.ired.model import Activations, EnergyMLP, swish_slope

LAYERS = (1, 2, 3)
# Subspaces times points evaluated at once.
CHUNK = 4096


class Pairs(NamedTuple):
    """Bases and their sources, P pairs.

    Attributes:
        x: (P, d_x), of the base.
        y: (P, d), of the base.
        t: (P,), level of both.
        source_x: (P, d_x), of the source.
        source_y: (P, d), where the source run is held; nothing if it runs at the base's y.
    """

    x: Tensor
    y: Tensor
    t: Tensor
    source_x: Tensor
    source_y: Tensor | None

    def __getitem__(self, index: slice | Tensor) -> Pairs:
        return Pairs(*(None if part is None else part[index] for part in tuple(self)))


def pairs(
    x: Tensor,
    y: Tensor,
    t: Tensor,
    sources: int,
    generator: torch.Generator,
    held: bool = True,
    entries: Tensor | None = None,
) -> Pairs:
    """Every point of one level as a base, with several others as sources.

    Args:
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        sources: S, of each point; the points are shifted cyclically, a random way each time.
        generator: of the shifts.
        held: whether the source run is held at its own y.
        entries: bool, (d_x,): the entries of x that the source takes from another point, all if not given. In
            addition the entries i and d + i change entry i of the answer alone.

    Returns:
        B · S pairs.

    Raises:
        ConfigError: fewer points than S + 1, or points of several levels.
    """
    if len(x) <= sources or len(t.unique()) > 1:
        raise ConfigError(
            f"circuits: {sources} sources need {sources + 1} points of one level, "
            f"found {len(x)} of {len(t.unique())}: raise sampling.count"
        )
    shifts = 1 + torch.randperm(len(x) - 1, generator=generator)[:sources]
    donors = torch.cat([torch.arange(len(x)).roll(int(shift)) for shift in shifts]).to(x.device)
    x, y, t = x.repeat(sources, 1), y.repeat(sources, 1), t.repeat(sources)
    source_x = x[donors] if entries is None else torch.where(entries, x[donors], x)
    return Pairs(x, y, t, source_x, y[donors] if held else None)


def interchanged_gradients(model: EnergyMLP, layer: int, basis: Tensor, pairs: Pairs) -> Tensor:
    """∇_yE at the bases with the sources' component along a subspace of one hidden layer.

    Args:
        model: the network.
        layer: 1, 2 or 3.
        basis: (…, h, k), orthonormal columns.
        pairs: P bases and sources.

    Returns:
        (…, P, d), differentiable in the basis.
    """
    base = model.activations(pairs.x, pairs.y, pairs.t)
    held = pairs.source_y is not None
    source = model.activations(pairs.source_x, pairs.source_y if held else pairs.y, pairs.t)
    state, other = (getattr(run, f"h{layer}") for run in (base, source))
    cotangent = _cotangent(model, layer, state + _project(basis, other - state), base)
    into_source = _project(basis, cotangent)
    gradient = _down(model, layer, cotangent - into_source, base)
    return gradient if held else gradient + _down(model, layer, into_source, source)


def counterfactual_gradients(model: EnergyMLP, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """∇_yE at the bases' y with the bases' x, and with the sources' x, which an interchange should give.

    Args:
        model: the network.
        pairs: P bases and sources.

    Returns:
        Two of (P, d).
    """
    return tuple(model.energy_and_gradient(x, pairs.y, pairs.t)[1] for x in (pairs.x, pairs.source_x))


def interchange_accuracy(model: EnergyMLP, layer: int, basis: Tensor, pairs: Pairs) -> Tensor:
    """1 − Σ‖g_swapped − g(x′, y)‖²/Σ‖g(x, y) − g(x′, y)‖² over the pairs.

    Args:
        model: the network.
        layer: 1, 2 or 3.
        basis: (…, h, k), orthonormal columns; k = 0 swaps nothing.
        pairs: those of a test set, for a basis that was learnt.

    Returns:
        (…,): 1 for a perfect interchange, 0 for none, negative for one that does harm; NaN where the sources
        change no gradient.
    """
    before, wanted = counterfactual_gradients(model, pairs)
    scale = (before - wanted).square().sum()
    found = interchanged_gradients(model, layer, basis, pairs)
    error = (found - wanted).square().sum((-2, -1))
    return 1 - error / torch.where(scale > 0, scale, torch.nan)


def aligned_basis(
    model: EnergyMLP,
    layer: int,
    dimension: int,
    pairs: Pairs,
    generator: torch.Generator,
    steps: int = 300,
    batch: int = 64,
    rate: float = 0.03,
) -> Tensor:
    """The subspace with the highest interchange accuracy that Adam finds from a random one.

    The step size falls to zero along a cosine.

    Args:
        model: the network.
        layer: 1, 2 or 3.
        dimension: k.
        pairs: those to learn from.
        generator: of the first subspace and the batches.
        steps: of Adam.
        batch: pairs per step.
        rate: largest step size.

    Returns:
        (h, k), orthonormal columns.

    Raises:
        ConfigError: no such layer, or k not in 1 … h.
    """
    if layer not in LAYERS or not 1 <= dimension <= model.hidden:
        raise ConfigError(
            f"circuits: a subspace of dimension {dimension} of layer {layer}: "
            f"give a layer of {LAYERS} and a dimension from 1 to {model.hidden}"
        )
    before, wanted = counterfactual_gradients(model, pairs)
    scale = (before - wanted).square().sum(-1).mean()
    frame = random_basis(model.hidden, dimension, generator).to(model.device, model.dtype).requires_grad_()
    optimiser = Adam([frame])
    for step in range(steps):
        chosen = torch.randperm(len(wanted), generator=generator)[:batch].to(model.device)
        found = interchanged_gradients(model, layer, _orthonormal(frame), pairs[chosen])
        loss = (found - wanted[chosen]).square().sum(-1).mean() / scale
        loss.backward()
        optimiser.rate = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.step()
        # A frame that grows, as steps along the manifold make it, would turn ever more slowly.
        with torch.no_grad():
            frame.copy_(_orthonormal(frame))
    return frame.detach()


def random_basis(hidden: int, dimension: int, generator: torch.Generator) -> Tensor:
    """A uniformly random subspace, (h, k) with orthonormal columns, float64 on the CPU."""
    return torch.linalg.qr(torch.randn(hidden, dimension, generator=generator, dtype=torch.float64)).Q


def units_basis(model: EnergyMLP, layer: int, dimension: int, pairs: Pairs) -> Tensor:
    """The span of the k units whose interchange alone is the most accurate.

    Args:
        model: the network.
        layer: 1, 2 or 3.
        dimension: k.
        pairs: those to choose by.

    Returns:
        (h, k), columns of the identity.
    """
    units = torch.eye(model.hidden, dtype=model.dtype, device=model.device)
    chunks = units[:, :, None].split(max(1, CHUNK // len(pairs.x)))
    accuracy = torch.cat([interchange_accuracy(model, layer, chunk, pairs) for chunk in chunks])
    return units[:, accuracy.argsort(descending=True, stable=True)[:dimension]]


def _orthonormal(frame: Tensor) -> Tensor:
    """Q of the QR whose R has a positive diagonal, which leaves an orthonormal frame as it is."""
    Q, R = torch.linalg.qr(frame)
    return Q * R.diagonal().sign()


def _project(basis: Tensor, states: Tensor) -> Tensor:
    return (states @ basis) @ basis.mT


def _cotangent(model: EnergyMLP, layer: int, state: Tensor, run: Activations) -> Tensor:
    """∂E/∂h of a layer where it is `state` instead of what it is in the run."""
    moved, slopes = state - getattr(run, f"h{layer}"), {}
    for above in range(layer + 1, 4):
        weight, gain = model.parameters[f"fc{above}.weight"], getattr(run, f"gain{above}")
        z = getattr(run, f"z{above}") + (moved @ weight.mT) * gain
        slopes[above] = swish_slope(z) * gain
        moved = F.silu(z) - getattr(run, f"h{above}")
    weight = model.parameters["fc4.weight"]
    cotangent = 2 * (run.output + moved @ weight.mT) @ weight
    for above in reversed(slopes):
        cotangent = (cotangent * slopes[above]) @ model.parameters[f"fc{above}.weight"]
    return cotangent


def _down(model: EnergyMLP, layer: int, cotangent: Tensor, run: Activations) -> Tensor:
    """From ∂/∂h of a layer to ∂/∂y."""
    for below in range(layer, 1, -1):
        slope = swish_slope(getattr(run, f"z{below}")) * getattr(run, f"gain{below}")
        cotangent = (cotangent * slope) @ model.parameters[f"fc{below}.weight"]
    return (cotangent * swish_slope(run.z1)) @ model.parameters["fc1.weight"][:, model.dim_x :]
