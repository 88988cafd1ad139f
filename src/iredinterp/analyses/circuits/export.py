"""A circuit as a graph that networkx, Gephi and Cytoscape read: inputs → units → energy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import networkx as nx
import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.files import atomic_file
from iredinterp.ired.model import EnergyMLP

ENERGY = "E"


def circuit_graph(
    model: EnergyMLP,
    circuit: Tensor,
    t: int,
    scores: Tensor | None = None,
    groups: Mapping[str, Tensor] | None = None,
) -> nx.DiGraph:
    """The kept units of a circuit at one level with the weights between them.

    Nodes have `label`, `kind` ("input", "unit" or "energy") and `layer` (0 … 4); inputs also `entries`, how
    many; units also `unit`, `gain` and `bias`, what the level makes of them (1 and 0 in layer 1), and `score`
    if there are scores. Edges have `weight` and its size, `strength`; those of weight 0 are left out. Between
    units it is the weight times the gain of the unit above; from a group of inputs the norm of the weights,
    and into the energy the norm of fc4's column, since E is the same in every rotation of fc4.

    Args:
        model: the network.
        circuit: bool, (3, h).
        t: level.
        scores: (3, h).
        groups: masks (d_x + d,) bool by name, each input being in one; "x" and "y" if not given.

    Returns:
        The graph, whose attributes are `level` and `units`.

    Raises:
        ConfigError: an input in no group or in several.
    """
    is_x = torch.arange(model.dim_x + model.dim_y) < model.dim_x
    groups = {"x": is_x, "y": ~is_x} if groups is None else groups
    if not (sum(mask.long() for mask in groups.values()) == 1).all():
        raise ConfigError(f"groups {', '.join(groups)}: expected each of {len(is_x)} inputs in one group")
    gain2, bias2, gain3, bias3 = (table[t] for table in model.modulations)
    one, zero = torch.ones_like(gain2), torch.zeros_like(gain2)
    gains, biases = (one, gain2, gain3), (zero, bias2, bias3)
    weights = [model.parameters[f"fc{layer}.weight"] for layer in (1, 2, 3, 4)]
    kept = [layer.nonzero().flatten().tolist() for layer in circuit]

    graph = nx.DiGraph(level=t, units=int(circuit.sum()))
    for name, mask in groups.items():
        graph.add_node(name, label=name, kind="input", layer=0, entries=int(mask.sum()))
    for layer, units in enumerate(kept):
        for unit in units:
            values = {"gain": gains[layer][unit], "bias": biases[layer][unit]}
            values |= {} if scores is None else {"score": scores[layer, unit]}
            numbers = {name: float(value) for name, value in values.items()}
            label = f"{layer + 1}.{unit}"
            graph.add_node(
                _name(layer, unit), label=label, kind="unit", layer=layer + 1, unit=unit, **numbers
            )
    graph.add_node(ENERGY, label=ENERGY, kind="energy", layer=4)

    for name, mask in groups.items():
        norms = weights[0][:, mask.to(model.device)].norm(dim=1)
        for unit in kept[0]:
            _connect(graph, name, _name(0, unit), norms[unit])
    for layer in (1, 2):
        effective = weights[layer] * gains[layer][:, None]
        for below in kept[layer - 1]:
            for unit in kept[layer]:
                _connect(graph, _name(layer - 1, below), _name(layer, unit), effective[unit, below])
    for unit in kept[2]:
        _connect(graph, _name(2, unit), ENERGY, weights[3][:, unit].norm())
    return graph


def write_graphml(graph: nx.DiGraph, path: str | Path) -> None:
    """Write a graph whole or not at all; the same graph gives the same bytes.

    Args:
        graph: from `circuit_graph`.
        path: file to write, for `networkx.read_graphml` or Gephi.
    """
    with atomic_file(path) as file:
        nx.write_graphml_xml(graph, file)


def _name(layer: int, unit: int) -> str:
    return f"h{layer + 1}:{unit}"


def _connect(graph: nx.DiGraph, start: str, end: str, weight: Tensor) -> None:
    if weight := float(weight):
        graph.add_edge(start, end, weight=weight, strength=abs(weight))
