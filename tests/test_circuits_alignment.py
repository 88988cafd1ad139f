"""Interchanges against autograd, and the subspaces of a planted network that carry its answer."""

import pytest
import torch
import torch.nn.functional as F

from iredinterp.analyses.circuits.alignment import (
    LAYERS,
    aligned_basis,
    counterfactual_gradients,
    interchange_accuracy,
    interchanged_gradients,
    pairs,
    random_basis,
    units_basis,
)
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.truth.planted import planted

LEVEL = 3
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def untrained(generator, dim_x=4, dim_y=3, hidden=10):
    return EnergyMLP.random(dim_x, dim_y, hidden, generator).to(torch.float64)


def drawn(model, generator, count, sources, held, scale=1.0):
    x, y = normal(generator, count, model.dim_x), scale * normal(generator, count, model.dim_y)
    return pairs(x, y, torch.full((count,), LEVEL), sources, generator, held)


def energy_with_interchange(model, layer, basis, chosen, y):
    """E of one layer after another, with the interchange written out."""

    def up_to(x, y):
        state = torch.cat([x, y], -1)
        for below in range(1, layer + 1):
            state = one_layer(below, state)
        return state

    def one_layer(number, state):
        gain, bias = 1, 0
        if number > 1:
            tables = model.modulations[2 * number - 4 : 2 * number - 2]
            gain, bias = (table[chosen.t] for table in tables)
        return F.silu(model.layer(f"fc{number}", state) * gain + bias)

    base = up_to(chosen.x, y)
    source = up_to(chosen.source_x, y if chosen.source_y is None else chosen.source_y)
    state = base - base @ basis @ basis.mT + source @ basis @ basis.mT
    for above in range(layer + 1, 4):
        state = one_layer(above, state)
    return model.layer("fc4", state).square().sum()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("held", [True, False])
def test_the_gradient_of_an_interchange_is_that_of_autograd(generator, layer, held):
    model = untrained(generator)
    chosen = drawn(model, generator, 6, 2, held)
    basis = random_basis(10, 3, generator)
    y = chosen.y.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy_with_interchange(model, layer, basis, chosen, y), y)
    torch.testing.assert_close(interchanged_gradients(model, layer, basis, chosen), expected, **EXACT)


@pytest.mark.parametrize("layer", LAYERS)
def test_swapping_nothing_or_everything_gives_what_it_must(generator, layer):
    """Everything moves the network to the source, whose gradient is that at the base's y only if it runs there."""
    model = untrained(generator)
    everything = torch.eye(10, dtype=torch.float64)
    for held in (True, False):
        chosen = drawn(model, generator, 6, 2, held)
        before, wanted = counterfactual_gradients(model, chosen)
        nothing = interchanged_gradients(model, layer, everything[:, :0], chosen)
        torch.testing.assert_close(nothing, before, **EXACT)
        swapped = interchanged_gradients(model, layer, everything, chosen)
        torch.testing.assert_close(swapped, torch.zeros_like(wanted) if held else wanted, **EXACT)
        assert interchange_accuracy(model, layer, everything[:, :0], chosen) == pytest.approx(0)


def test_a_source_at_the_bases_y_passes_in_any_network_through_the_space_that_fc4_reads(generator):
    model = untrained(generator)
    chosen = drawn(model, generator, 6, 2, held=False)
    basis = torch.linalg.qr(model.parameters["fc4.weight"].mT).Q
    assert interchange_accuracy(model, 3, basis, chosen) == pytest.approx(1)
    held = drawn(model, generator, 6, 2, held=True)
    assert interchange_accuracy(model, 3, basis, held) < 0.9


def wires(network, layer, signal):
    """Orthonormal basis of what the circuit above a layer reads of the units that see one signal."""
    read = network.model.parameters[f"fc{layer + 1}.weight"]
    read = read * torch.tensor([found == signal for found in network.truth.signals[layer]])
    if layer < 3:
        read = read[network.truth.circuit(layer + 1, LEVEL)]
    return torch.linalg.svd(read).Vh[: network.model.dim_y].mT


def flat(seed, dim_x=8, dim_y=3, **more):
    """A planted network whose directions all count alike."""
    return planted(dim_x, dim_y, seed, torch.ones(10, dim_y, dtype=torch.float64), **more)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_planted_wires_of_the_answer_carry_it_and_those_of_y_do_not(seed, generator, layer, held):
    network = planted(5, 3, seed, decoys={"dead_end": 3, "redundant": 2, "cancelling": 1})
    chosen = drawn(network.model, generator, 12, 3, held)
    answer, y = (wires(network, layer, signal) for signal in ("mean", "y"))
    assert interchange_accuracy(network.model, layer, answer, chosen) == pytest.approx(1, abs=1e-9)
    assert interchange_accuracy(network.model, layer, y, chosen) < 1e-9


def test_layer_3_holds_the_residual_alone(seed, generator):
    """At the source's own y the residual is wrong by y′ − y, here far larger than what x changes in it."""
    network = flat(seed)
    residual = wires(network, 3, "error")
    moving, held = (drawn(network.model, generator, 12, 3, held, scale=4.0) for held in (False, True))
    assert interchange_accuracy(network.model, 3, residual, moving) == pytest.approx(1, abs=1e-9)
    assert interchange_accuracy(network.model, 3, residual, held) < 0
    best = aligned_basis(network.model, 3, 3, held, generator, steps=150)
    assert interchange_accuracy(network.model, 3, best, held) < 0.8


@pytest.mark.parametrize("layer", [1, 2])
def test_the_search_finds_the_answer_and_a_single_dimension_cannot_hold_it(seed, generator, layer):
    network = flat(seed)
    model = network.model
    learnt, fresh = drawn(model, generator, 64, 8, True), drawn(model, generator, 32, 4, True)
    basis = aligned_basis(model, layer, 3, learnt, generator)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.float64), **EXACT)
    found = interchange_accuracy(model, layer, basis, fresh)
    assert 0.95 < found <= 1
    assert interchange_accuracy(model, layer, random_basis(model.hidden, 3, generator), fresh) < found

    # One direction of the state moves the gradient along one direction, and stops what of it flows along one.
    before, wanted = counterfactual_gradients(model, fresh)
    moments = torch.linalg.svdvals(wanted - before).square()
    single = aligned_basis(model, layer, 1, learnt, generator, steps=100)
    assert interchange_accuracy(model, layer, single, fresh) < moments[:2].sum() / moments.sum()


def test_single_units_are_the_best_ones_alone(generator):
    model = untrained(generator)
    chosen = drawn(model, generator, 8, 2, held=False)
    each = [
        interchange_accuracy(model, 2, torch.eye(10, dtype=torch.float64)[:, [unit]], chosen)
        for unit in range(10)
    ]
    basis = units_basis(model, 2, 4, chosen)
    best = torch.stack(each).argsort(descending=True)[:4]
    assert basis.argmax(0).tolist() == best.tolist()
    assert basis.sum() == 4


def test_the_same_generator_gives_the_same_subspace(seed, generator):
    model = untrained(generator)
    chosen = drawn(model, generator, 8, 2, held=True)
    one, other = (
        aligned_basis(model, 1, 2, chosen, torch.Generator().manual_seed(seed), steps=5) for _ in range(2)
    )
    assert torch.equal(one, other)


def test_sources_are_other_points_and_can_differ_in_one_entry_of_the_answer(generator):
    problems = draw_problems(ProblemSpec("addition", 3), 6, generator)
    x, t = problems.x, torch.full((6,), LEVEL)
    y = normal(generator, 6, 9)
    all_of_it = pairs(x, y, t, 5, generator)
    assert (
        len(
            {
                (tuple(a), tuple(b))
                for a, b in zip(all_of_it.x.tolist(), all_of_it.source_x.tolist(), strict=True)
            }
        )
        == 30
    )
    assert not (all_of_it.x == all_of_it.source_x).all(1).any()
    entries = torch.zeros(18, dtype=torch.bool)
    entries[[4, 9 + 4]] = True
    one = pairs(x, y, t, 2, generator, held=False, entries=entries)
    answer, other = (summands.unflatten(1, (2, 9)).sum(1) for summands in (one.x, one.source_x))
    assert (answer != other).nonzero()[:, 1].unique().tolist() == [4]
    assert one.source_y is None


def test_bad_input_is_named(generator):
    model = untrained(generator)
    with pytest.raises(ConfigError, match=r"4 sources need 5 points of one level, found 4 of 1: raise"):
        drawn(model, generator, 4, 4, True)
    chosen = drawn(model, generator, 4, 1, True)
    with pytest.raises(ConfigError, match=r"dimension 11 of layer 2: give a layer .* from 1 to 10"):
        aligned_basis(model, 2, 11, chosen, generator)
    with pytest.raises(ConfigError, match=r"of layer 4"):
        aligned_basis(model, 4, 1, chosen, generator)
