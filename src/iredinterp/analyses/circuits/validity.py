"""Three tests that a circuit should pass: it does what the network does, alone, and needs all its units.

Adapted from transformers' edges and task scores to units and to the gradient that the network is trained on.
Give them points that no search for the circuit has seen.

Source:
    Shi et al., "Hypothesis Testing the Circuit Hypothesis in LLMs", NeurIPS 2024 (arXiv:2410.13032).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binom, binomtest, false_discovery_control
from torch import Tensor

from iredinterp.errors import ConfigError

# Differences this small beside the largest number of their kind are rounding.
CONSTANT = 1e-9


class Equivalence(NamedTuple):
    """Whether a circuit is as good as its network.

    Attributes:
        wins: share of points, ties left out, where the circuit has the smaller error; NaN if all are ties.
        untied: points that are no ties.
        p: of the hypothesis that it wins with a probability within ½ ± margin; 1 if all points are ties.
        refuted: p ≤ alpha.
        agreeing: share of points where the errors differ by at most the tolerance.
        agreeing_low: lower confidence bound of that probability, at 1 − alpha.
        established: agreeing_low is at least the share asked for.
    """

    wins: float
    untied: int
    p: float
    refuted: bool
    agreeing: float
    agreeing_low: float
    established: bool


class Independence(NamedTuple):
    """Whether the network without the circuit still says something of the network.

    Attributes:
        alignment: HSIC over its largest value, in [0, 1]; 0 where either side is constant.
        p: of independence; 1 where either side is constant.
        refuted: p ≤ alpha.
    """

    alignment: float
    p: float
    refuted: bool


class Minimality(NamedTuple):
    """Whether each unit of a circuit matters more than units added to it at random, (n,) each.

    Both decisions hold with a false discovery rate of alpha over the units, and a unit may be neither.

    Attributes:
        beaten: share of random units with a smaller effect.
        p_unneeded: of the hypothesis that a share of at least `quantile` is beaten (Shi et al.).
        unneeded: that hypothesis is rejected; a circuit with such a unit is not minimal.
        p_needed: of the hypothesis that the unit is like a random one.
        needed: that hypothesis is rejected.
    """

    beaten: Tensor
    p_unneeded: Tensor
    unneeded: Tensor
    p_needed: Tensor
    needed: Tensor


def denoising_error(gradient: Tensor, noise: Tensor) -> Tensor:
    """‖g − ε‖²/d, the error of a gradient at q_samples, which is trained to be the noise ε.

    Args:
        gradient: (…, B, d).
        noise: (B, d).

    Returns:
        (…, B), 1 on average where g = 0.
    """
    return (gradient - noise).square().mean(-1)


def equivalence(
    circuit: Tensor,
    network: Tensor,
    margin: float = 0.1,
    tolerance: float = 0.05,
    share: float = 0.9,
    alpha: float = 0.05,
) -> Equivalence:
    """Test whether the circuit wins as often as it loses, and whether its errors are the network's.

    The first can only refute and says nothing of how large the differences are; the second establishes.

    Args:
        circuit: (B,), the circuit's error at each point.
        network: (B,), the network's.
        margin: ε of Shi et al., around one half.
        tolerance: difference of errors that is negligible, in their unit.
        share: of points where it must be.
        alpha: level of either decision.
    """
    difference = (circuit - network).cpu().double()
    ties = difference.abs() <= CONSTANT * network.abs().mean().item()
    won, untied = int((difference < 0)[~ties].sum()), int((~ties).sum())
    counts = np.arange(untied + 1)
    as_far = np.abs(2 * counts - untied) >= abs(2 * won - untied)
    p = min(1.0, float(binom.pmf(counts, untied, 0.5 + margin)[as_far].sum()))
    agreeing = int((difference.abs() <= tolerance).sum())
    bound = binomtest(agreeing, len(difference), alternative="greater").proportion_ci(1 - alpha).low
    wins = won / untied if untied else float("nan")
    return Equivalence(
        wins, untied, p, p <= alpha, agreeing / len(difference), float(bound), bool(bound >= share)
    )


def independence(
    knocked_out: Tensor,
    network: Tensor,
    generator: torch.Generator,
    permutations: int = 999,
    alpha: float = 0.05,
) -> Independence:
    """Permutation test of the Hilbert–Schmidt independence criterion between two samples of gradients.

    Gaussian kernels with the median distance as width. The samples of the paper are scores; the gradients
    themselves have d numbers each, so that nothing they know stays hidden behind one.

    Args:
        knocked_out: (B, d), gradients of the network without the circuit.
        network: (B, d), of the whole network at the same points.
        generator: of the permutations.
        permutations: number of them.
        alpha: level.

    Source:
        Gretton et al. 2007, "A kernel statistical test of independence".
    """
    least = CONSTANT * network.norm(dim=-1).mean().item()
    kernels = [_centred_kernel(sample.cpu().double(), least) for sample in (knocked_out, network)]
    if any(kernel is None for kernel in kernels):
        return Independence(0.0, 1.0, False)
    first, second = kernels
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    observed = (first * second).sum() / scale
    orders = (torch.randperm(len(first), generator=generator).numpy() for _ in range(permutations))
    shuffled = np.array([(first * second[order][:, order]).sum() / scale for order in orders])
    p = float((1 + (shuffled >= observed).sum()) / (1 + permutations))
    return Independence(float(observed), p, p <= alpha)


def removal_effects(score: Callable[[Tensor], Tensor], circuit: Tensor) -> Tensor:
    """Mean |change of the score| when each unit of a circuit is removed.

    Args:
        score: of circuits at points, bool (M, 3, h) → (M, B).
        circuit: bool, (3, h).

    Returns:
        (n,), in the order of `circuit.nonzero()`.
    """
    units = circuit.nonzero()
    return _changes(score, circuit.expand(len(units), -1, -1), units)


def chance_effects(
    score: Callable[[Tensor], Tensor], circuit: Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """The same of a unit of a path, one unit per layer, that was added at random before.

    Args:
        score, circuit: as for `removal_effects`.
        draws: R, number of inflated circuits.
        generator: of the paths, and of which unit is removed.

    Returns:
        (R,).

    Raises:
        ConfigError: a circuit of all units, to which nothing can be added.
    """
    outside = [(~layer).nonzero().flatten() for layer in circuit]
    layers = [layer for layer, units in enumerate(outside) if len(units)]
    if not layers:
        raise ConfigError("circuits: the circuit has all units; minimality needs some to add to it")
    added = torch.zeros(draws, *circuit.shape, dtype=torch.bool)
    removed = torch.empty(draws, 2, dtype=torch.long)
    for draw in range(draws):
        path = {
            layer: int(outside[layer][torch.randint(len(outside[layer]), (1,), generator=generator)])
            for layer in layers
        }
        for layer, unit in path.items():
            added[draw, layer, unit] = True
        layer = layers[int(torch.randint(len(layers), (1,), generator=generator))]
        removed[draw] = torch.tensor([layer, path[layer]])
    return _changes(score, circuit | added, removed)


def minimality(effects: Tensor, chance: Tensor, quantile: float = 0.9, alpha: float = 0.05) -> Minimality:
    """Compare the effects of a circuit's units with those of random units.

    Args:
        effects: (n,), from `removal_effects`.
        chance: (R,), from `chance_effects`.
        quantile: q* of Shi et al.: share of random units that a unit of a minimal circuit beats.
        alpha: false discovery rate of either decision (Benjamini & Hochberg 1995).
    """
    rounding = CONSTANT * torch.cat([effects, chance]).max()
    beaten = (effects[:, None] > chance + rounding).sum(1).cpu()
    draws = len(chance)
    unneeded = torch.from_numpy(binom.cdf(beaten.numpy(), draws, quantile))
    needed = (1 + draws - beaten).double() / (1 + draws)
    decided = [torch.from_numpy(false_discovery_control(p.numpy()) <= alpha) for p in (unneeded, needed)]
    return Minimality(beaten.double() / draws, unneeded, decided[0], needed, decided[1])


def _changes(score: Callable[[Tensor], Tensor], circuits: Tensor, units: Tensor) -> Tensor:
    without = circuits.clone()
    without[torch.arange(len(units)), units[:, 0], units[:, 1]] = False
    return (score(circuits) - score(without)).abs().mean(-1)


def _centred_kernel(sample: Tensor, least: float) -> np.ndarray | None:
    """The centred Gram matrix, or nothing where the sample is constant but for rounding."""
    distances = torch.cdist(sample, sample, compute_mode="donot_use_mm_for_euclid_dist")
    width = distances[~torch.eye(len(sample), dtype=torch.bool)].median()
    if not width > least:
        return None
    kernel = (-(distances / width).square() / 2).exp()
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    return centred.numpy()
