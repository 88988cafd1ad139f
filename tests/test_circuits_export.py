"""A circuit's graph holds the weights of its units at one level, and survives the way through GraphML."""

import hashlib

import networkx as nx
import pytest
import torch

from iredinterp.analyses.circuits.export import circuit_graph, write_graphml
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.planted import EVERY_DECOY, planted

T = 4


@pytest.fixture
def case(seed):
    network = planted(5, 3, seed, decoys=EVERY_DECOY)
    circuit = torch.stack([network.truth.circuit(layer, T) for layer in (1, 2, 3)])
    scores = torch.rand(3, network.model.hidden, generator=torch.Generator().manual_seed(seed))
    return network, circuit, scores


def units(graph, layer):
    return {
        values["unit"]: values
        for _, values in graph.nodes(data=True)
        if values["layer"] == layer and values["kind"] == "unit"
    }


def test_the_graph_has_the_kept_units_with_their_gates_and_scores(case):
    network, circuit, scores = case
    graph = circuit_graph(network.model, circuit, T, scores)
    assert graph.graph == {"level": T, "units": int(circuit.sum())}
    for layer in (1, 2, 3):
        found = units(graph, layer)
        assert sorted(found) == circuit[layer - 1].nonzero().flatten().tolist()
        for unit, values in found.items():
            gain = network.truth.gains[layer][T, unit].item() if layer > 1 else 1
            assert values["gain"] == pytest.approx(gain, abs=1e-12)
            assert values["bias"] == pytest.approx(0, abs=1e-12)
            assert values["score"] == scores[layer - 1, unit].item()


def test_edges_are_derivatives_of_preactivations(generator):
    """∂z₂/∂h₁ and ∂z₃/∂h₂ at one level, by autograd through the network's own layers."""
    model = EnergyMLP.random(2, 2, 5, generator).to(torch.float64)
    graph = circuit_graph(model, torch.ones(3, 5, dtype=torch.bool), T)
    for layer in (2, 3):
        gain, bias = (table[T] for table in model.modulations[2 * layer - 4 : 2 * layer - 2])
        slope = torch.autograd.functional.jacobian(
            lambda h, layer=layer, gain=gain, bias=bias: model.layer(f"fc{layer}", h) * gain + bias,
            torch.zeros(5, dtype=torch.float64),
        )
        for (above, below), expected in zip(
            torch.cartesian_prod(*[torch.arange(5)] * 2).tolist(), slope.flatten().tolist(), strict=True
        ):
            edge = graph.edges[f"h{layer - 1}:{below}", f"h{layer}:{above}"]
            assert edge["weight"] == pytest.approx(expected, abs=1e-12)
            assert edge["strength"] == abs(edge["weight"])


def test_what_flows_into_the_energy_does_not_depend_on_the_gauge_of_fc4(generator):
    model = EnergyMLP.random(3, 4, 6, generator).to(torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    turned = dict(model.parameters)
    turned["fc4.weight"] = rotation @ turned["fc4.weight"]
    everything = torch.ones(3, 6, dtype=torch.bool)
    one, other = (circuit_graph(m, everything, T) for m in (model, EnergyMLP(turned, model.schedule)))
    assert [v for *_, v in one.in_edges("E", data="weight")] == pytest.approx(
        [v for *_, v in other.in_edges("E", data="weight")]
    )


def test_groups_of_inputs_share_out_the_squared_weights(generator):
    model = EnergyMLP.random(4, 2, 6, generator).to(torch.float64)
    place = torch.arange(6)
    groups = {"x:row0": place < 2, "x:row1": (place >= 2) & (place < 4), "y": place >= 4}
    graph = circuit_graph(model, torch.ones(3, 6, dtype=torch.bool), T, groups=groups)
    assert [graph.nodes[name]["entries"] for name in groups] == [2, 2, 2]
    for unit in range(6):
        squares = [weight**2 for *_, weight in graph.in_edges(f"h1:{unit}", data="weight")]
        assert sum(squares) == pytest.approx(model.parameters["fc1.weight"][unit].square().sum().item())
    with pytest.raises(ConfigError, match=r"groups x:row0, y: expected each of 6 inputs in one group"):
        circuit_graph(
            model, torch.ones(3, 6, dtype=torch.bool), T, groups={"x:row0": place < 2, "y": place > 2}
        )


def test_dead_ends_are_read_by_nobody(case):
    network, circuit, _ = case
    everything = circuit_graph(network.model, torch.ones_like(circuit), T)
    for layer in (1, 2, 3):
        for unit in network.truth.units(layer, "dead_end").tolist():
            assert everything.out_degree(f"h{layer}:{unit}") == 0
            assert everything.in_degree(f"h{layer}:{unit}") > 0


def test_graphml_gives_the_same_graph_and_the_same_bytes(case, tmp_path):
    network, circuit, scores = case
    digests = set()
    for name in ("one.graphml", "other.graphml"):
        graph = circuit_graph(network.model, circuit, T, scores)
        write_graphml(graph, tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    read = nx.read_graphml(tmp_path / "one.graphml")
    assert dict(read.nodes) == dict(graph.nodes)
    assert dict(read.edges) == dict(graph.edges)
    assert (read.graph["level"], read.graph["units"]) == (T, int(circuit.sum()))


def test_a_graph_without_scores_or_units_is_written_too(generator, tmp_path):
    model = EnergyMLP.random(2, 2, 4, generator)
    write_graphml(circuit_graph(model, torch.zeros(3, 4, dtype=torch.bool), 0), tmp_path / "empty.graphml")
    assert sorted(nx.read_graphml(tmp_path / "empty.graphml").nodes) == ["E", "x", "y"]
