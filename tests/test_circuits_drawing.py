"""The figures of circuits show the numbers of their tables."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from iredinterp.analyses.circuits.drawing import (
    COLUMNS,
    figure_curves,
    figure_interchange,
    figure_levels,
    figures,
)
from iredinterp.analyses.circuits.export import circuit_graph
from iredinterp.analyses.circuits.graph_drawing import figure_circuit
from iredinterp.errors import TableError
from iredinterp.figures import save_figure
from iredinterp.truth.planted import EVERY_DECOY, planted


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def frame(name, rows):
    return pd.DataFrame(rows, columns=COLUMNS[name])


def curves(rng):
    methods = {"exact": 3, "attribution": 1, "random": 8}
    return frame(
        "curves",
        [
            (condition, t, method, sample, k, rng.normal(k / 30, 0.2) if k else -3.0)
            for condition in ("random_init", "trained")
            for t in (0, 9)
            for method, samples in methods.items()
            for sample in range(samples)
            for k in (0, 10, 20, 30)
        ],
    )


def scores(rng, hidden=8):
    return frame(
        "scores",
        [
            (t, layer, unit, rng.normal(), 1 + 0.1 * rng.normal())
            for t in range(10)
            for layer in (1, 2, 3)
            for unit in range(hidden)
        ],
    )


def overlaps():
    return frame(
        "overlaps",
        [
            (t, u, [0.9, 0.5, 0.1][(t + u) % 3] if t != u else 1.0, 0.3, 0.7)
            for t in range(4)
            for u in range(4)
        ],
    )


def accuracy(rng):
    return frame(
        "accuracy",
        [
            (source, layer, k, method, t, sample, rng.uniform(-2, 1))
            for source in ("held", "moving")
            for layer in (1, 2, 3)
            for k in (1, 5, 25)
            for method in ("aligned", "units", "random")
            for t in (0, 9)
            for sample in range(2)
        ],
    )


def planted_graph(seed, scored=True):
    network = planted(5, 3, seed, decoys=EVERY_DECOY)
    circuit = torch.stack([network.truth.circuit(layer, 3) for layer in (1, 2, 3)])
    return circuit_graph(network.model, circuit, 3, torch.rand(circuit.shape) if scored else None)


def test_a_circuit_is_drawn_with_the_same_bytes_in_every_process(tmp_path):
    code = """
import sys
import torch
from iredinterp.analyses.circuits.export import circuit_graph
from iredinterp.analyses.circuits.graph_drawing import figure_circuit
from iredinterp.figures import save_figure
from iredinterp.truth.planted import planted

network = planted(5, 3, 0)
circuit = torch.stack([network.truth.circuit(layer, 3) for layer in (1, 2, 3)])
save_figure(figure_circuit(circuit_graph(network.model, circuit, 3), units=1), sys.argv[1])
"""
    paths = [tmp_path / f"{hashes}.svg" for hashes in ("1", "2", "3")]
    for path in paths:
        environment = os.environ | {"PYTHONHASHSEED": path.stem}
        subprocess.run([sys.executable, "-c", code, path], env=environment, check=True)
    assert len({path.read_bytes() for path in paths}) == 1


def lines(ax, label=None):
    return [line for line in ax.lines if label is None or line.get_label() == label]


def test_every_figure_is_drawn_and_saved(seed, rng, tmp_path):
    drawn = figures(curves(rng), scores(rng), overlaps(), accuracy(rng), planted_graph(seed), "title", "note")
    assert set(drawn) == {"curves", "levels", "interchange", "circuit"}
    for name, figure in drawn.items():
        assert "title" in [text.get_text() for text in figure.texts]
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_curves_are_means_with_the_noisiest_level_on_top_and_the_trained_model_first(rng):
    table = curves(rng)
    figure = figure_curves(table)
    axes = np.array(figure.axes).reshape(2, 2)
    assert [ax.get_title() for ax in axes[0]] == ["trained", "random init"]
    assert [ax.get_ylabel().splitlines()[0] for ax in axes[:, 0]] == ["level t = 9", "level t = 0"]
    rows = table[(table.condition == "trained") & (table.t == 9)]
    thick = max(axes[0, 0].lines, key=lambda line: line.get_linewidth())
    for line, method in (
        (thick, "exact"),
        (next(li for li in axes[0, 0].lines if li.get_linestyle() == "--"), "random"),
    ):
        expected = rows[rows.method == method].groupby("k")["value"].mean()
        np.testing.assert_array_equal(line.get_xdata(), expected.index)
        np.testing.assert_allclose(line.get_ydata(), expected.clip(lower=-0.5))


def test_units_are_sorted_and_the_rest_is_counted(rng):
    table = scores(rng)
    figure = figure_levels(table, overlaps(), units=5)
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (10, 15)
    assert "9 left out" in figure.texts[-1].get_text()
    shares = table.assign(
        score=table.score / table.groupby(["t", "layer"]).score.transform(lambda s: s.abs().max())
    )
    first = (
        shares[shares.layer == 1]
        .pivot_table(index="t", columns="unit", values="score")
        .sort_index(ascending=False)
    )
    kept = first.abs().max().nlargest(5).index
    assert sorted(np.abs(image[:, :5]).max(0)) == pytest.approx(sorted(first[kept].abs().max()))
    # Within a layer the level of the largest share falls from left to right, as rows do.
    peaks = np.abs(image[:, :5]).argmax(0)
    assert (np.diff(peaks) >= 0).all()


def test_pairs_of_levels_outside_the_band_are_marked(rng):
    figure = figure_levels(scores(rng), overlaps())
    (ax,) = [ax for ax in figure.axes if ax.get_title() == "Jaccard index of circuits"]
    marks = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in ax.texts}
    for t in range(4):
        for u in range(4):
            expected = {0: "+", 1: None, 2: "−"}[(t + u) % 3] if t != u else None
            assert marks.get((3 - t, 3 - u)) == expected


@pytest.mark.parametrize("scored", [True, False])
def test_a_circuit_is_drawn_with_its_largest_units(seed, scored):
    graph = planted_graph(seed, scored)
    figure = figure_circuit(graph, units=4, edges=3)
    labels = {text.get_text() for text in figure.axes[0].texts}
    inner = [graph.nodes[node] for node in graph if graph.nodes[node]["kind"] == "unit"]
    for layer in (1, 2, 3):
        there = [values for values in inner if values["layer"] == layer]
        drawn = [values for values in there if values["label"] in labels]
        assert len(drawn) == 4
        if scored:
            best = sorted((values["score"] for values in there), reverse=True)[:4]
            assert sorted((values["score"] for values in drawn), reverse=True) == best
    assert f"12 of {len(inner)} units" in figure.texts[-1].get_text()
    assert {"x", "y", "E"} <= labels


def test_an_empty_circuit_is_drawn_too():
    graph = nx.DiGraph(level=0, units=0)
    graph.add_node("x", label="x", kind="input", layer=0)
    graph.add_node("E", label="E", kind="energy", layer=4)
    assert "0 of 0 units" in figure_circuit(graph).texts[-1].get_text()


def test_accuracy_is_drawn_by_level_and_clipped(rng):
    table = accuracy(rng)
    figure = figure_interchange(table)
    axes = np.array(figure.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["layer 1", "layer 2", "layer 3"]
    rows = table[
        (table.source == "moving") & (table.layer == 2) & (table.method == "aligned") & (table.t == 9)
    ]
    expected = rows.groupby("k")["value"].median().clip(lower=-0.5)
    assert any(
        np.allclose(line.get_ydata(), expected) for line in axes[1, 1].lines if len(line.get_ydata()) == 3
    )


def test_bad_tables_are_named(rng):
    with pytest.raises(TableError, match=r"curves: no column 'k', 'value'"):
        figure_curves(curves(rng).drop(columns=["k", "value"]))
    with pytest.raises(TableError, match=r"accuracy: no rows to draw"):
        figure_interchange(accuracy(rng).head(0))
