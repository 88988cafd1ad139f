"""Figure of a circuit as a graph from the inputs to the energy."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import framed

POSITIVE, NEGATIVE = PALETTE["blue"], PALETTE["vermillion"]


@style()
def figure_circuit(
    graph: nx.DiGraph, title: str = "", note: str = "", units: int = 14, edges: int = 60
) -> Figure:
    """A circuit at one level, inputs on the left and the energy on the right.

    Units stand near those they read from; the size of a unit is its score, if it has one, and the width of an
    edge its strength among those between the same two layers.

    Args:
        graph: from `circuit_graph`.
        title: of the figure.
        note: a line below the title.
        units: how many to draw of each layer at most, by score or else by the strength of their edges.
        edges: how many to draw at most between two layers, the strongest.
    """
    weight = {
        node: abs(values["score"]) if "score" in values else sum(_strengths(graph, node))
        for node, values in graph.nodes(data=True)
        if values["kind"] == "unit"
    }
    best = sorted(weight, key=weight.get, reverse=True)
    layers = [[node for node in best if graph.nodes[node]["layer"] == layer][:units] for layer in (1, 2, 3)]
    shown = [node for nodes in layers for node in nodes]
    # Not `subgraph`, whose nodes come in the order of their hashes: other bytes in every process.
    part = graph.copy()
    part.remove_nodes_from([node for node in graph if node in weight and node not in shown])
    places = _places(part)
    figure, ((ax,),) = panel_grid(1, 1, 7.2, 4.6)
    ax.set_axis_off()
    drawn = sum(_draw_edges(ax, part, places, layer, edges) for layer in range(4))
    largest = max((weight[node] for node in shown), default=1.0) or 1.0
    for node, (x, y) in places.items():
        size = 8 + 60 * weight[node] / largest if node in weight else 160
        color = "white" if node in weight else "0.9"
        ax.scatter(x, y, size, color, edgecolors="0.2", linewidths=0.7, zorder=3)
        side = {0: (-9, "right"), 4: (9, "left")}.get(int(x), (6, "left"))
        ax.annotate(
            part.nodes[node]["label"],
            (x, y),
            (side[0], 0),
            textcoords="offset points",
            ha=side[1],
            va="center",
            fontsize=8 if node not in weight else 6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.4},
            zorder=4,
        )
    for x, name in enumerate(("inputs", "layer 1", "layer 2", "layer 3", "energy")):
        ax.text(x, 1.09, name, ha="center", fontsize=9)
    ax.set_xlim(-0.35, 4.25)
    ax.set_ylim(-0.06, 1.14)
    foot = f"level t = {graph.graph['level']}; {len(shown)} of {len(weight)} units"
    foot += f" and {drawn} of {graph.number_of_edges()} edges, the strongest between any two layers"
    handles = [
        Line2D([], [], color=POSITIVE, label="positive weight at this level"),
        Line2D([], [], color=NEGATIVE, label="negative"),
        Line2D([], [], color="0.5", label="norm over a group of inputs, or over the outputs"),
    ]
    return framed(figure, title, note, foot, handles)


def _strengths(graph: nx.DiGraph, node: str) -> list[float]:
    edges = [*graph.in_edges(node, data=True), *graph.out_edges(node, data=True)]
    return [values["strength"] for _, _, values in edges]


def _places(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Columns by layer; within one by the mean height of what a node reads, weighted by strength."""
    places: dict[str, tuple[float, float]] = {}
    for layer in range(5):
        nodes = [node for node, at in graph.nodes(data="layer") if at == layer]
        means = {}
        for node in nodes:
            reads = [
                (places[below][1], values["strength"]) for below, _, values in graph.in_edges(node, data=True)
            ]
            total = sum(strength for _, strength in reads)
            means[node] = sum(height * strength for height, strength in reads) / total if total else 0.5
        ordered = nodes[::-1] if layer == 0 else sorted(nodes, key=means.get)
        for i, node in enumerate(ordered):
            places[node] = (layer, (i + 0.5) / len(ordered))
    return places


def _draw_edges(ax: Axes, graph: nx.DiGraph, places: Mapping, layer: int, count: int) -> int:
    """Draw the strongest edges that leave a layer; returns how many."""
    edges = [edge for edge in graph.edges(data=True) if graph.nodes[edge[0]]["layer"] == layer]
    edges = sorted(edges, key=lambda edge: edge[2]["strength"])[-count:]
    if not edges:
        return 0
    strength = np.array([values["strength"] for _, _, values in edges]) / edges[-1][2]["strength"]
    signed = [POSITIVE if values["weight"] > 0 else NEGATIVE for _, _, values in edges]
    lines = [[places[start], places[end]] for start, end, _ in edges]
    ax.add_collection(
        LineCollection(
            lines,
            linewidths=0.2 + 1.4 * strength,
            colors=signed if layer in (1, 2) else "0.5",
            alpha=0.15 + 0.6 * strength,
        )
    )
    return len(edges)
