"""The tutorial runs in a kernel of this interpreter, and what it shows is true."""

import json
import math
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import iredinterp

NOTEBOOK = Path(__file__).parents[1] / "docs/tutorial.ipynb"
# What the tests below look at, read out of the kernel after the last cell.
PROBE = """
def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value

print(json.dumps({
    "skill": scores[scores["entries"] == "missing"].set_index("predictor")["mse"].to_dict(),
    "answer_error": [float(error[0]), float(error[-1])],
    "median_scaled": {name: float(values.median()) for name, values in scaled.items()},
    "determined": int(determined.sum()),
    "oracle_deviation": float(deviation),
    "dims": split["trained"].block_dims,
    "in_band": {
        name: float(((found.ratio > found.band[0]) & (found.ratio < found.band[1])).double().mean())
        for name, found in split.items()
    },
    "arms": arms,
    "distances": [float(distance.median()), float(chance.median())],
    "unexplained": unexplained.pivot(index="data", columns="split", values="value").to_dict("index"),
    "minima": summary.to_dict(),
    "rows": len(read),
    "read": [plain(read["value"].max()), max(float(values.amax()) for values in scaled.values())],
    "gate_error": gate_error,
    "verdict": [decision.verdict, decision.seeds, sorted(decision.contrasts)],
    "too_few": [too_few.verdict, too_few.reason],
    "oracle_slope": float(samples.query("condition == 'oracle'")["value"].abs().max()),
}))
"""


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def found(notebook):
    probed = nbformat.from_dict({**notebook, "cells": [*notebook.cells, nbformat.v4.new_code_cell(PROBE)]})
    NotebookClient(probed, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    return json.loads(probed.cells[-1].outputs[0].text)


def test_the_network_is_better_than_every_predictor_without_an_energy(found):
    model = found["skill"].pop("model")
    assert model < min(found["skill"].values())
    assert found["answer_error"][1] < found["answer_error"][0]


def test_the_optimum_is_a_bowl_where_x_determines_the_answer(found):
    assert found["determined"] > 40
    assert found["oracle_deviation"] < 1e-9
    assert found["oracle_slope"] < 1e-9


def test_curvature_tells_the_trained_network_from_the_untrained(found):
    assert math.isclose(found["median_scaled"]["trained"], 1, abs_tol=0.3)
    assert abs(found["median_scaled"]["random_init"]) < 0.1


def test_gradients_of_the_optimum_are_isotropic_noise(found):
    # The gradient of the bowl is the noise itself, and 95 % of isotropic gradients lie in the band.
    assert found["in_band"]["oracle"] > 0.8
    assert found["dims"] == {"core": 1, "column": 4, "row": 4, "normal": 16}


def test_arms_of_the_optimum_cost_the_same(found):
    arms = found["arms"]["oracle"].values()
    assert max(arms) / min(arms) < 1.05
    answers, chance = found["distances"]
    assert answers < chance


def test_noise_is_explained_nearly_as_well_as_gradients(found):
    for data, unexplained in found["unexplained"].items():
        assert 0 < unexplained["train"] < unexplained["validation"] < 1, data


def test_minima_are_near_the_answer_where_the_optimum_has_them(found):
    distance = {name: column["distance to the answer / σ√d"] for name, column in found["minima"].items()}
    assert distance["oracle"] < 1e-9
    assert distance["trained"] < 0.5 < distance["random_init"]


def test_the_artifact_comes_back_as_written(found):
    assert found["rows"] == 3 * 10 * 48
    back, written = found["read"]
    assert back == written


def test_the_verdict_has_its_calibration_its_nulls_and_enough_seeds(found):
    assert found["gate_error"] < 1e-9
    verdict, seeds, contrasts = found["verdict"]
    assert verdict == "INCONCLUSIVE"
    assert seeds == 8
    assert {"random_init", "permuted_weights", "shuffled_x", "permuted_targets", "oracle"} < {*contrasts}
    assert found["too_few"][0] == "INCONCLUSIVE"
    assert found["too_few"][1].startswith("4 seeds")


def test_the_notebook_uses_public_names_only(notebook):
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert set(re.findall(r"\bired\.(\w+)", code)) <= {*iredinterp.__all__}
    assert not re.findall(r"(?:from|import) iredinterp\.", code)


def test_the_notebook_is_kept_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert all(len(cell.source.splitlines()) <= 40 for cell in cells)
