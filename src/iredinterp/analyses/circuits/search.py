"""Ways to rank hidden units by how much the network needs them, each blind to something.

A method takes the network, points of one level, an ablation and a generator, and returns (3, h), larger being
more needed. Units that hold a constant are needed, yet resampling and the mean put back what was there: only
the ablation "zero" sees them, whatever the method. Circuits cut from a ranking belong on other points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from iredinterp.analyses.circuits.ablation import Parts, ablated, faithfulness, fills, whole
from iredinterp.analyses.circuits.attribution import attribution_patching, integrated_gradients
from iredinterp.analyses.circuits.curves import unit_masks
from iredinterp.analyses.circuits.exact import UNITS, distances, effect_products, necessity, sufficiency
from iredinterp.ired.model import EnergyMLP

Method = Callable[[EnergyMLP, Tensor, Tensor, Tensor, str, torch.Generator], Tensor]

# A pair is worth an ablation where its effects, or what the next layer sees of it, lose half by adding up.
SUSPECTED = 0.5
# A pair cancels where it does at most this share of what the lesser of the two does alone. Units of a circuit
# get down to 0.016 at level 0 (measured on 150 planted ones), where y and its mean are nearly the same.
CANCELLED = 0.003
THRESHOLDS = tuple(10.0**exponent for exponent in torch.linspace(-9, 0, 7).tolist())
# Louizos, Welling & Kingma 2018: temperature and stretch of the hard concrete gates.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1


def random_order(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """Any order: what a ranking that knows nothing is worth.

    Args:
        model: the network.
        x: (B, d_x), of one level.
        y: (B, d).
        t: (B,).
        ablation: see `fills`.
        generator: source of randomness.

    Returns:
        (3, h), larger being more needed.
    """
    return torch.rand(len(UNITS), model.hidden, generator=generator).to(y)


def exact(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """M1 without the unit; see `necessity`. Prefers units that cancel each other to the circuit.

    Arguments and result as in `random_order`.
    """
    return necessity(model, x, y, t, fills(model, x, y, t, ablation, generator)).gradient


def exact_energy(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """M3 without the unit, as `exact`; also blind to a change of E that is the same for every y.

    Arguments and result as in `random_order`.
    """
    return necessity(model, x, y, t, fills(model, x, y, t, ablation, generator)).energy


def restored(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """By how much M1 falls if the unit joins a layer without units; see `sufficiency`.

    Ranks low what works only together with others, as the two halves of a wire.

    Arguments and result as in `random_order`.
    """
    return sufficiency(model, x, y, t, fills(model, x, y, t, ablation, generator)).gradient


def joint(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """M1 without the unit, or half of M1 without it and its partner where the two cancel.

    Partners are looked for where the effects of two units of a layer on the gradient nearly cancel, and where
    what the next layer reads of them does: large effects that cancel need not add up, as E is not linear.
    Every pair found is ablated together, and believed only if that does next to nothing (`CANCELLED`) of what
    either does alone. Blind to pairs that differ by more than some 5 %, to three and more units that cancel
    though no two do, and to pairs in different layers.

    Arguments and result as in `random_order`.
    """
    fill = fills(model, x, y, t, ablation, generator)
    single = necessity(model, x, y, t, fill).gradient
    scores = single.clone()
    for layer, part in enumerate(UNITS):
        effects = effect_products(model, x, y, t, fill, part)
        writes = _write_products(model, x, y, t, fill, layer + 1)
        pairs = torch.cat([_partners(effects), _partners(writes)]).unique(dim=0)
        if not len(pairs):
            continue
        together = _pair_effects(model, x, y, t, fill, part, pairs)
        cancels = together <= CANCELLED * single[layer, pairs].amin(1)
        for unit in pairs[cancels].mT:
            scores[layer].scatter_reduce_(0, unit, together[cancels] / 2, "amin")
    return scores


def attribution(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """⟨((a' − a) ∂E/∂a)²⟩, M3 to first order.

    Blind to units without gradient that matter, and fooled by cancelling units as exact effects are.

    Arguments and result as in `random_order`.
    """
    fill = fills(model, x, y, t, ablation, generator)
    return attribution_patching(model, x, y, t, fill).square().mean(-1)


def integrated(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """⟨IG²⟩ of E, 10 steps. A layer fades as one, so a unit is judged where the others are half gone.

    Arguments and result as in `random_order`.
    """
    fill = fills(model, x, y, t, ablation, generator)
    return integrated_gradients(model, x, y, t, fill).square().mean(-1)


def integrated_gradient_error(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """|⟨IG⟩| of M1, 10 steps: of the M1 = 1 of an empty layer the share, of either sign, that a unit takes.

    Signs are dropped as in Hanna et al.: units that work against each other, as what carries y and what
    carries its mean, take shares of opposite sign and are needed both.

    Arguments and result as in `random_order`.
    """
    fill = fills(model, x, y, t, ablation, generator)
    return integrated_gradients(model, x, y, t, fill, "gradient").mean(-1).abs()


def greedy(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, ablation: str, generator: torch.Generator
) -> Tensor:
    """Share of the thresholds τ at which a unit survives.

    From layer 3 to 1, in random order within each, a unit goes if M1 rises by less than τ, given those that
    went before. One of two units that can stand in for each other goes. Of two that cancel the first stays at
    every τ below its own effect, and with it the second, so that they outrank the circuit.

    Arguments and result as in `random_order`.

    Source:
        ACDC on units, Conmy et al. 2023, 2304.14997.
    """
    fill = fills(model, x, y, t, ablation, generator)
    gradient = model.energy_and_gradient(x, y, t)[1]
    thresholds = torch.tensor(THRESHOLDS).to(y)
    alive = y.new_ones(len(THRESHOLDS), len(UNITS), model.hidden)
    error = y.new_zeros(len(THRESHOLDS))
    for layer in reversed(range(len(UNITS))):
        for unit in torch.randperm(model.hidden, generator=generator).tolist():
            trial = alive.clone()
            trial[:, layer, unit] = 0
            found = ablated(model, x, y, t, unit_masks(model, trial), fill)[1]
            without = 1 - faithfulness(found, gradient).mean(-1)
            goes = without - error < thresholds
            alive = torch.where(goes[:, None, None], trial, alive)
            error = torch.where(goes, without, error)
    return alive.mean(0)


def hard_concrete(
    model: EnergyMLP,
    x: Tensor,
    y: Tensor,
    t: Tensor,
    ablation: str,
    generator: torch.Generator,
    sparsity: float = 1.0,
    steps: int = 200,
    rate: float = 0.1,
) -> Tensor:
    """Log-odds α of gates trained on M1 + `sparsity` · (expected share of open gates), all units together.

    Gates close one by one, by chance, so that one of two units that cancel is needed wherever the other is
    open, and both stay. Of units that can stand in for each other any may go. Where the cost of a gate
    outweighs what its unit does, the ranking says which closed first and little more.

    Arguments and result as in `random_order`.

    Source:
        Louizos, Welling & Kingma 2018, 1712.01312; one draw of all gates per point and step, by Adam.
    """
    fill = fills(model, x, y, t, ablation, generator)
    gradient = model.energy_and_gradient(x, y, t)[1]
    openness = y.new_full((len(UNITS), model.hidden), 2.0).requires_grad_()
    optimiser = torch.optim.Adam([openness], lr=rate)
    shift = TEMPERATURE * torch.tensor(-LOW / HIGH).log().to(y)
    with torch.enable_grad():
        for _ in range(steps):
            noise = torch.rand(len(y), *openness.shape, generator=generator, dtype=torch.float64).to(y)
            gates = torch.sigmoid((torch.logit(noise, eps=1e-6) + openness) / TEMPERATURE)
            gates = (gates * (HIGH - LOW) + LOW).clamp(0, 1)
            kept = whole(model)._replace(**dict(zip(UNITS, gates.unbind(1), strict=True)))
            error = 1 - faithfulness(ablated(model, x, y, t, kept, fill)[1], gradient).mean()
            loss = error + sparsity * torch.sigmoid(openness - shift).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return openness.detach()


METHODS: Mapping[str, Method] = {
    "random": random_order,
    "exact": exact,
    "exact_energy": exact_energy,
    "restored": restored,
    "joint": joint,
    "eap": attribution,
    "eap_ig": integrated,
    "eap_ig_gradient": integrated_gradient_error,
    "greedy": greedy,
    "hard_concrete": hard_concrete,
}


def _write_products(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, layer: int) -> Tensor:
    """⟨w_i·w_j⟩ of what single ablations of a layer do to the input of the next, before swish, (h, h)."""
    a = model.activations(x, y, t)
    move = getattr(fill, f"h{layer}") - getattr(a, f"h{layer}")
    weight = model.parameters[f"fc{layer + 1}.weight"]
    # Points are of one level: its gain is the same for all.
    gain = getattr(a, f"gain{layer + 1}")[0].unsqueeze(-1) if layer < 3 else 1
    weight = gain * weight
    return (move.mT @ move / len(y)) * (weight.mT @ weight)


def _partners(products: Tensor) -> Tensor:
    """Each unit with the one that cancels most of it, if they lose half or more by adding up, (P, 2)."""
    sizes = products.diagonal()
    both = sizes[:, None] + sizes
    lost = torch.where(both > 0, -2 * products / both, 0).fill_diagonal_(0)
    most, partner = lost.max(1)
    units = torch.arange(len(sizes), device=sizes.device)
    return torch.stack([units, partner], 1)[most >= 1 - SUSPECTED].sort(1).values


def _pair_effects(
    model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor, fill: Parts, part: str, pairs: Tensor
) -> Tensor:
    """M1 without both units of each pair, (P,)."""
    masks = torch.ones(len(pairs), model.hidden).to(y).scatter_(1, pairs, 0).unsqueeze(1)
    found = distances(model, x, y, t, whole(model)._replace(**{part: masks}), fill)
    return found.gradient.mean(-1) / model.energy_and_gradient(x, y, t)[1].square().sum(-1).mean()
