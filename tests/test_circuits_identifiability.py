"""One circuit where a planted network has one, and three in a network made to have three."""

import pytest
import torch

from iredinterp.analyses.circuits.ablation import ABLATIONS, faithfulness, fills
from iredinterp.analyses.circuits.identifiability import circuit_gradients, identifiability, restarts
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.planted import planted

# Leaves out no unit that E depends on and forgives rounding.
EXACT = 1 - 1e-10
DECOYS = {"dead_end": 4, "redundant": 3, "gated": 2}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def scored(model, x, y, t, ablation, generator):
    level = torch.full((len(x),), t)
    gradients = circuit_gradients(model, x, y, level, fills(model, x, y, level, ablation, generator))
    target = model.energy_and_gradient(x, y, level)[1]
    return lambda circuits: faithfulness(gradients(circuits), target).mean(-1)


def circuit_of(truth, t):
    return torch.stack([truth.circuit(layer, t) for layer in (1, 2, 3)])


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_restarts_all_find_the_planted_circuit_and_the_index_is_one(seed, generator, ablation):
    network = planted(5, 3, seed, decoys=DECOYS)
    t = 2
    score = scored(network.model, normal(generator, 16, 5), normal(generator, 16, 3), t, ablation, generator)
    found = restarts(score, network.model.hidden, 6, EXACT, generator)
    truth = circuit_of(network.truth, t)
    assert torch.equal(found.circuits, truth.expand(6, -1, -1))
    assert found.smallest.tolist() == [int(truth.sum())] * 6
    index = identifiability(found.circuits, found.faithfulness, EXACT)
    assert index[:3] == (6, 1, 1.0)
    assert 0 < index.expected < 0.9


def with_a_choice(network, t, steepness=1000.0):
    """Twins u and v of layer 1, read with half the weight each, joined by max(u, v) = (u + v + |u − v|)/2.

    Two units of layer 2 hold swish(±1000 (u − v))/1000, hence the positive parts of ±(u − v), and are read as
    the twins are. Ablated to zero, any two of u with r₂, v with r₁, or u with v give the value of the twins
    where that is positive.
    """
    truth, model = network.truth, network.model
    u, v = next(pair.units for pair in truth.pairs if pair.layer == 1)
    direction, signal = int(truth.directions[1][u]), truth.signals[1][u]
    parameters = {name: value.clone() for name, value in model.parameters.items()}
    r1, r2 = truth.units(2, "unused")[:2].tolist()
    fc2, fc3 = parameters["fc2.weight"], parameters["fc3.weight"]
    fc2[r1, u], fc2[r1, v] = -steepness, steepness
    fc2[r2, u], fc2[r2, v] = steepness, -steepness
    # What layer 3 reads of either twin: a wire's two units, opposite in sign, have slopes whose sum is 1.
    carriers = [
        unit
        for unit in range(model.hidden)
        if truth.signals[2][unit] == signal and truth.directions[2][unit] == direction
    ]
    read = sum(fc3[:, unit] * fc2[unit, u] * truth.gains[2][t, unit] for unit in carriers) / 2
    fc3[:, r1] = fc3[:, r2] = read / steepness
    return EnergyMLP(parameters, model.schedule), (u, v), (r1, r2)


def test_a_network_with_a_choice_of_three_has_index_three(seed, generator):
    t, network = 0, planted(4, 2, seed, hidden=16, decoys={"redundant": 1})
    model, (u, v), (r1, r2) = with_a_choice(network, t)
    # At these points what the twins see is well above 0.
    row, inputs = model.parameters["fc1.weight"][u], normal(generator, 12, 6)
    inputs += (1 + normal(generator, 12).abs() - inputs @ row)[:, None] * row / row.square().sum()
    score = scored(model, inputs[:, :4], inputs[:, 4:], t, "zero", generator)

    truth = circuit_of(network.truth, t)
    shared = truth.clone()
    shared[0, [u, v]] = False
    alternatives = []
    for units in ({(0, u), (1, r2)}, {(0, v), (1, r1)}, {(0, u), (0, v)}):
        circuit = shared.clone()
        for layer, unit in units:
            circuit[layer, unit] = True
        alternatives.append(circuit)
    assert score(torch.stack(alternatives)).min() > EXACT
    assert score(shared[None]) < 0.99

    found = restarts(score, model.hidden, 64, EXACT, generator)
    index = identifiability(found.circuits, found.faithfulness, EXACT)
    assert {tuple(c.flatten().tolist()) for c in found.circuits} == {
        tuple(c.flatten().tolist()) for c in alternatives
    }
    assert (index.faithful, index.distinct) == (64, 3)
    n = int(shared.sum())
    assert index.jaccard == pytest.approx((n / (n + 4) + 2 * (n + 1) / (n + 3)) / 3)


def test_smaller_circuits_get_back_what_they_lost_last(generator):
    """A made-up score: any 5 of the first 8 units, or the one unit 9 alone, will do."""

    def score(circuits):
        flat = circuits.flatten(1)
        return ((flat[:, :8].sum(1) >= 5) | flat[:, 9]).double()

    found = restarts(score, 4, 50, 1.0, generator)
    assert set(found.smallest.tolist()) == {1, 5}
    assert (found.circuits.sum((1, 2)) == 5).all()
    assert (found.faithfulness == 1).all()


def test_unfaithful_circuits_do_not_count():
    circuits = torch.eye(4, dtype=torch.bool).view(4, 1, 4).expand(-1, 3, -1)
    index = identifiability(circuits, torch.tensor([1.0, 1.0, 0.9, 0.2]), 0.95)
    assert (index.faithful, index.distinct, index.jaccard) == (2, 2, 0.0)
    none = identifiability(circuits, torch.zeros(4), 0.95)
    assert none[:2] == (0, 0)
    assert torch.tensor(none[2:]).isnan().all()


def test_bad_input_is_named(generator):
    with pytest.raises(ConfigError, match=r"the whole network has faithfulness 0\.5, below 0\.95"):
        restarts(lambda circuits: torch.full((len(circuits),), 0.5), 4, 2, 0.95, generator)
    circuits = torch.eye(3, dtype=torch.bool)[:, None].repeat(1, 3, 1)
    circuits[0, 0] = True
    with pytest.raises(ConfigError, match=r"found sizes \[3, 5\]; compare circuits of one size"):
        identifiability(circuits, torch.ones(3), 0.95)
