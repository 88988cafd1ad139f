"""Rankings of units against circuits that were planted, among units planted to mislead them."""

import numpy as np
import pytest
import torch

from iredinterp.analyses.circuits.ablation import fills, whole
from iredinterp.analyses.circuits.attribution import attribution_patching, integrated_gradients
from iredinterp.analyses.circuits.exact import distances
from iredinterp.analyses.circuits.search import CANCELLED, METHODS, exact, greedy, hard_concrete, joint
from iredinterp.errors import ConfigError
from iredinterp.evidence.statistics import auroc
from iredinterp.ired.model import EnergyMLP
from iredinterp.points import q_sample
from iredinterp.truth.planted import EVERY_DECOY, planted

LAYERS = (1, 2, 3)


def points_of(found, generator, level, count=24):
    x = torch.randn(count, found.model.dim_x, generator=generator, dtype=torch.float64)
    y_star = x @ found.truth.slope.mT
    noise = torch.randn(y_star.shape, generator=generator, dtype=torch.float64)
    return x, q_sample(y_star, level, noise, found.model.schedule), torch.full((count,), level)


def any_level(generator):
    return int(torch.randint(10, (1,), generator=generator))


def areas(scores, truth, level):
    """AUROC of each layer's circuit units over all others."""
    needed = [truth.circuit(layer, level) for layer in LAYERS]
    return np.array([auroc(s[n].numpy(), s[~n].numpy()) for s, n in zip(scores, needed, strict=True)])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_one_finite_score_per_unit_that_its_generator_repeats(seed, generator, name):
    found = planted(4, 3, seed, decoys={"dead_end": 1})
    points = points_of(found, generator, 4, count=8)
    first, again = (
        METHODS[name](found.model, *points, "resample", torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert first.shape == (3, found.model.hidden)
    assert first.isfinite().all()
    assert not first.requires_grad
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", ["exact", "exact_energy", "joint", "eap", "eap_ig"])
@pytest.mark.parametrize("decoys", [{}, {"dead_end": 4}, {"redundant": 2}, {"gated": 1}], ids=str)
def test_effects_find_the_circuit_among_units_that_do_nothing_halves_of_units_and_closed_gates(
    seed, generator, name, decoys
):
    found = planted(5, 4, seed, decoys=decoys)
    levels = [any_level(generator)]
    if decoys.get("gated"):
        opened = found.truth.branches[0].levels
        levels = [opened[0], min(set(range(10)) - set(opened))]
    for level in levels:
        scores = METHODS[name](found.model, *points_of(found, generator, level), "resample", generator)
        assert (areas(scores, found.truth, level) == 1).all()


def test_a_gated_branch_counts_at_its_levels_only(seed, generator):
    found = planted(5, 4, seed, decoys={"gated": 2})
    for branch in found.truth.branches:
        for level in (branch.levels[0], min(set(range(10)) - set(branch.levels))):
            scores = exact(found.model, *points_of(found, generator, level), "resample", generator)
            size = scores[2, list(branch.units)]
            assert (size > 1e-9).all() if level in branch.levels else (size < 1e-25).all()


def test_cancelling_units_outweigh_the_circuit_alone_and_leave_without_a_trace_together(seed, generator):
    found = planted(5, 4, seed, decoys={"cancelling": 2})
    level = any_level(generator)
    points = points_of(found, generator, level)
    for ablation in ("resample", "zero"):
        single = exact(found.model, *points, ablation, torch.Generator().manual_seed(seed))
        scores = joint(found.model, *points, ablation, torch.Generator().manual_seed(seed))
        assert (areas(single, found.truth, level) < 0.97).all()
        assert (areas(scores, found.truth, level) == 1).all()
        for layer in LAYERS:
            members, decoys = found.truth.circuit(layer, level), found.truth.units(layer, "cancelling")
            assert single[layer - 1, decoys].mean() > single[layer - 1, members].mean()
            assert scores[layer - 1, decoys].max() < 1e-12
            assert torch.equal(scores[layer - 1, members], single[layer - 1, members])


def test_the_joint_step_finds_the_whole_circuit_among_all_decoys(seed, generator):
    found = planted(5, 4, seed, decoys=EVERY_DECOY)
    level = any_level(generator)
    scores = joint(found.model, *points_of(found, generator, level), "zero", generator)
    assert (areas(scores, found.truth, level) == 1).all()


def test_the_joint_step_leaves_no_score_higher_and_the_two_halves_of_a_wire_alone(seed, generator):
    found = planted(5, 4, seed)
    points = points_of(found, generator, any_level(generator))
    single = exact(found.model, *points, "resample", torch.Generator().manual_seed(seed))
    assert torch.equal(joint(found.model, *points, "resample", torch.Generator().manual_seed(seed)), single)


def cancelling_network(seed, generator, layer=1):
    found = planted(5, 4, seed, decoys={"cancelling": 1, "dead_end": 1})
    (pair,) = [p.units for p in found.truth.pairs if p.layer == layer]
    return found, pair, points_of(found, generator, any_level(generator))


def test_units_that_cancel_but_for_a_few_percent_are_scored_by_what_remains(seed, generator):
    found, (first, second), points = cancelling_network(seed, generator)
    found.model.parameters["fc2.weight"][:, second] *= 1.03
    single = exact(found.model, *points, "resample", torch.Generator().manual_seed(seed))
    scores = joint(found.model, *points, "resample", torch.Generator().manual_seed(seed))
    mask = torch.ones(found.model.hidden, dtype=torch.float64)
    mask[[first, second]] = 0
    fill = fills(found.model, *points, "resample", torch.Generator().manual_seed(seed))
    left = distances(found.model, *points, whole(found.model)._replace(h1=mask), fill).gradient.mean()
    left = left / found.model.energy_and_gradient(*points)[1].square().sum(-1).mean()
    torch.testing.assert_close(scores[0, [first, second]], (left / 2).expand(2))
    assert left < CANCELLED * single[0, [first, second]].min()


def test_three_units_of_which_no_two_cancel_are_out_of_reach(seed, generator):
    found, (first, second), points = cancelling_network(seed, generator)
    (third,) = found.truth.units(1, "dead_end").tolist()
    weights = found.model.parameters
    weights["fc1.weight"][third] = weights["fc1.weight"][second]
    weights["fc1.bias"][third] = weights["fc1.bias"][second]
    weights["fc2.weight"][:, second] /= 2
    weights["fc2.weight"][:, third] = weights["fc2.weight"][:, second]
    single = exact(found.model, *points, "resample", torch.Generator().manual_seed(seed))
    scores = joint(found.model, *points, "resample", torch.Generator().manual_seed(seed))
    three = [first, second, third]
    assert torch.equal(scores[0, three], single[0, three])
    mask = torch.ones(found.model.hidden, dtype=torch.float64)
    mask[three] = 0
    fill = fills(found.model, *points, "resample", generator)
    assert distances(found.model, *points, whole(found.model)._replace(h1=mask), fill).gradient.max() < 1e-12


def test_a_constant_unit_without_gradient_is_seen_by_zero_ablation_but_not_by_attribution(seed, generator):
    found = planted(5, 4, seed, decoys={"saturated": 1})
    (saturated,) = found.truth.saturated
    points = points_of(found, generator, any_level(generator))
    zero = fills(found.model, *points, "zero")
    others = found.truth.units(1, "circuit")
    first_order = attribution_patching(found.model, *points, zero)[0].square().mean(-1)
    assert first_order[saturated.unit] < 1e-20 * first_order[others].max()
    assert integrated_gradients(found.model, *points, zero)[0, saturated.unit].square().mean() > 1e-6
    assert exact(found.model, *points, "zero", generator)[0, saturated.unit] > 1e-6
    for ablation in ("resample", "mean"):
        assert exact(found.model, *points, ablation, generator)[0, saturated.unit] < 1e-20


def test_greedy_removal_keeps_one_of_two_halves_and_both_of_a_cancelling_pair(seed, generator):
    found = planted(5, 4, seed, decoys={"redundant": 1, "cancelling": 1, "dead_end": 2})
    level = 4
    scores = greedy(found.model, *points_of(found, generator, level), "resample", generator)
    for layer in LAYERS:
        alone = found.truth.units(layer, "cancelling")
        assert scores[layer - 1, alone].min() >= scores[layer - 1, found.truth.circuit(layer, level)].median()
        for role in ("dead_end", "unused"):
            assert not scores[layer - 1, found.truth.units(layer, role)].any()
    halves = {pair.layer: pair.units for pair in found.truth.pairs if pair.role == "redundant"}
    assert scores[2, list(halves[3])].max() > 0


def test_trained_gates_close_on_units_that_do_nothing_and_stay_open_on_the_last_layers_circuit(
    seed, generator
):
    found = planted(5, 4, seed, spectrum=torch.ones(10, 4, dtype=torch.float64), decoys={"dead_end": 4})
    points = points_of(found, generator, 4)
    gates = hard_concrete(found.model, *points, "resample", generator, sparsity=0.1, steps=200)
    for layer in LAYERS:
        assert gates[layer - 1, found.truth.units(layer, "dead_end")].max() < -1
    assert gates[2, found.truth.circuit(3, 4)].min() > 1


def test_rankings_of_an_untrained_network_by_exact_effects_and_attribution_agree_but_not_with_chance(
    seed, generator
):
    model = EnergyMLP.random(6, 5, 40, generator).to(torch.float64)
    x, y = (torch.randn(24, size, generator=generator, dtype=torch.float64) for size in (6, 5))
    points = x, y, torch.full((24,), 3)
    names = ("exact", "exact_energy", "eap", "random")
    by = {
        name: METHODS[name](model, *points, "resample", torch.Generator().manual_seed(seed)).flatten()
        for name in names
    }

    def correlation(one, other):
        return float(
            torch.corrcoef(
                torch.stack([by[one].argsort().argsort(), by[other].argsort().argsort()]).double()
            )[0, 1]
        )

    assert correlation("exact_energy", "eap") > 0.8
    assert abs(correlation("exact", "random")) < 0.5


def test_an_unknown_ablation_is_named_by_every_method(seed, generator):
    found = planted(4, 3, seed)
    points = points_of(found, generator, 4, count=4)
    for name, method in METHODS.items():
        if name != "random":
            with pytest.raises(ConfigError, match="'noise' is unknown"):
                method(found.model, *points, "noise", generator)
