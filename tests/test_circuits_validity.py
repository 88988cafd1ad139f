"""The three tests of a circuit: their error rates where the hypothesis holds, and planted circuits."""

import numpy as np
import pytest
import scipy.stats
import torch

from iredinterp.analyses.circuits.ablation import ABLATIONS, faithfulness, fills
from iredinterp.analyses.circuits.identifiability import circuit_gradients
from iredinterp.analyses.circuits.validity import (
    chance_effects,
    denoising_error,
    equivalence,
    independence,
    minimality,
    removal_effects,
)
from iredinterp.errors import ConfigError
from iredinterp.truth.planted import planted

ALPHA = 0.05
LEVEL = 2
DECOYS = {"dead_end": 6, "redundant": 2, "gated": 1}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def most(trials, alpha=ALPHA):
    """More rejections than this happen once in 10⁸ runs of a test that keeps its level."""
    return scipy.stats.binom.ppf(1 - 1e-8, trials, alpha)


class Case:
    """A planted network at points of one level, with its circuit."""

    def __init__(self, seed, generator, ablation, points=40):
        network = planted(5, 3, seed, decoys=DECOYS)
        model, truth = network.model, network.truth
        x, y, t = normal(generator, points, 5), normal(generator, points, 3), torch.full((points,), LEVEL)
        self.gradients = circuit_gradients(model, x, y, t, fills(model, x, y, t, ablation, generator))
        self.circuit = torch.stack([truth.circuit(layer, LEVEL) for layer in (1, 2, 3)])
        self.dead_ends = [(layer - 1, unit) for layer in (1, 2, 3) for unit in truth.units(layer, "dead_end")]
        self.network = model.energy_and_gradient(x, y, t)[1]
        self.noise = normal(generator, points, 3)

    def errors(self, circuit):
        return denoising_error(self.gradients(circuit[None])[0], self.noise)

    def score(self, circuits):
        return faithfulness(self.gradients(circuits), self.network)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_planted_circuit_passes_all_three_tests(seed, generator, ablation):
    case = Case(seed, generator, ablation)
    same = equivalence(case.errors(case.circuit), denoising_error(case.network, case.noise))
    assert (same.untied, same.p, same.refuted, same.agreeing, same.established) == (0, 1, False, 1, True)
    # Without the circuit nothing reads y: the gradient is 0 at every point.
    apart = independence(case.gradients(~case.circuit[None])[0], case.network, generator)
    assert apart == (0, 1, False)
    effects = removal_effects(case.score, case.circuit)
    found = minimality(effects, chance_effects(case.score, case.circuit, 199, generator))
    assert found.needed.all()
    assert not found.unneeded.any()


def test_dead_ends_in_a_circuit_are_unneeded_and_its_own_units_needed(seed, generator):
    case = Case(seed, generator, "resample")
    inflated = case.circuit.clone()
    layers, units = zip(*case.dead_ends[::2], strict=True)
    inflated[list(layers), list(units)] = True
    effects = removal_effects(case.score, inflated)
    found = minimality(effects, chance_effects(case.score, inflated, 199, generator))
    assert torch.equal(found.needed, case.circuit[inflated])
    assert torch.equal(found.unneeded, ~case.circuit[inflated])


def test_a_part_of_a_circuit_is_not_equivalent_and_leaves_the_rest_behind(seed, generator):
    case = Case(seed, generator, "mean")
    units = case.circuit[2].nonzero().flatten().tolist()
    part = case.circuit.clone()
    part[2, units[: len(units) // 2]] = False
    off = equivalence(case.errors(part), denoising_error(case.network, case.noise), tolerance=1e-6)
    assert off.agreeing < 0.5
    assert not off.established
    one = torch.zeros_like(case.circuit)
    one[2, units[0]] = True
    left = independence(case.gradients(~one[None])[0], case.network, generator)
    assert left.refuted
    assert left.alignment > 0.3


def test_without_margin_the_sign_test_is_the_exact_binomial_test(generator):
    wins = 1 + int(torch.randint(20, (1,), generator=generator))
    difference = torch.cat([-torch.ones(wins), torch.ones(30 - wins), torch.zeros(7)])
    found = equivalence(1 + difference, torch.ones(37), margin=0)
    assert found.p == pytest.approx(scipy.stats.binomtest(wins, 30).pvalue)
    assert (found.wins, found.untied) == (pytest.approx(wins / 30), 30)


def test_a_small_but_certain_loss_refutes_and_is_negligible_all_the_same():
    found = equivalence(torch.full((60,), 1.01), torch.ones(60))
    assert found.refuted
    assert found.wins == 0
    assert found.established
    assert found.agreeing_low == pytest.approx(scipy.stats.beta.ppf(0.05, 60, 1))
    assert not equivalence(torch.full((60,), 1.06), torch.ones(60)).established


def test_equal_chances_are_refuted_at_most_as_often_as_stated(generator):
    trials = 300
    differences = normal(generator, trials, 50)
    assert sum(equivalence(1 + d, torch.ones(50)).refuted for d in differences) <= most(trials)
    biased = differences - 2
    assert all(equivalence(1 + d, torch.ones(50)).refuted for d in biased)


def test_independent_gradients_are_refuted_at_most_as_often_as_stated(generator):
    trials, rejected = 150, 0
    for _ in range(trials):
        first, second = normal(generator, 2, 24, 3)
        rejected += independence(first, second, generator, permutations=59).refuted
    assert rejected <= most(trials)


def test_dependence_without_correlation_is_found(generator):
    first = normal(generator, 80, 2)
    second = first.square() + 0.1 * normal(generator, 80, 2)
    assert independence(second, first, generator, permutations=199).refuted
    assert independence(first, first, generator, permutations=99).alignment == pytest.approx(1)


def test_the_units_of_gradients_do_not_matter_to_independence(generator):
    first = normal(generator, 30, 4)
    second = first + normal(generator, 30, 4)
    rotation = torch.linalg.qr(normal(generator, 4, 4)).Q
    one = independence(first, second, torch.Generator().manual_seed(1))
    other = independence(1e-3 * first @ rotation + 1, 1e4 * second, torch.Generator().manual_seed(1))
    assert one == pytest.approx(other)


def test_a_random_unit_is_called_needed_or_unneeded_at_most_as_often_as_stated(generator):
    trials = 400
    chance = torch.rand(trials, 99, generator=generator, dtype=torch.float64)
    like_random = torch.rand(trials, 1, generator=generator, dtype=torch.float64)
    needed = sum(minimality(e, c).needed.item() for e, c in zip(like_random, chance, strict=True))
    assert needed <= most(trials)
    # An effect that a tenth of random units surpass is just large enough for a minimal circuit.
    limit = torch.full((1,), 0.9, dtype=torch.float64)
    assert sum(minimality(limit, c).unneeded.item() for c in chance) <= most(trials)


def test_false_discoveries_among_many_random_units_are_few(generator):
    """With all units random, any discovery is false: Benjamini and Hochberg allow one in 5 % of circuits."""
    trials = 200
    effects = torch.rand(trials, 20, generator=generator, dtype=torch.float64)
    chance = torch.rand(trials, 999, generator=generator, dtype=torch.float64)
    wrong = sum(bool(minimality(e, c).needed.any()) for e, c in zip(effects, chance, strict=True))
    assert wrong <= most(trials)


def test_p_values_of_units_are_the_binomial_and_the_permutation_ones(generator):
    chance = torch.arange(1.0, 20.0, dtype=torch.float64)
    found = minimality(torch.tensor([0.5, 10.5, 30.0], dtype=torch.float64), chance, quantile=0.8)
    beaten = np.array([0, 10, 19])
    np.testing.assert_allclose(found.beaten, beaten / 19)
    np.testing.assert_allclose(found.p_needed, (20 - beaten) / 20)
    expected = [scipy.stats.binomtest(int(k), 19, 0.8, alternative="less").pvalue for k in beaten]
    np.testing.assert_allclose(found.p_unneeded, expected)


def test_effects_are_mean_absolute_changes(generator):
    weights = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    points = normal(generator, 5)

    def score(circuits):
        return (circuits * weights).sum((1, 2))[:, None] * points

    circuit = torch.rand(3, 4, generator=generator) < 0.5
    circuit[0, 0], circuit[1, :] = True, False
    scale = points.abs().mean()
    torch.testing.assert_close(removal_effects(score, circuit), weights[circuit] * scale)
    chance = chance_effects(score, circuit, 50, generator)
    outside = weights[~circuit] * scale
    assert (chance[:, None] - outside).abs().min(1).values.max() < 1e-12


def test_a_circuit_of_all_units_cannot_be_inflated(generator):
    with pytest.raises(ConfigError, match="the circuit has all units; minimality needs some to add"):
        chance_effects(lambda c: c.sum((1, 2))[:, None], torch.ones(3, 4, dtype=torch.bool), 9, generator)
