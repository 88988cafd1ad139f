"""Calibration sees tables alone: planted errors of known size come out as such."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from iredinterp.errors import TableError
from iredinterp.evidence.calibration import calibration_table, gates
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.samples import GROUP, read_samples, samples_of
from iredinterp.tables import tensor_array, write_table

REGISTRATION = read_hypotheses(Path(__file__).parents[1] / "config/hypotheses.yaml")
HYPOTHESIS = REGISTRATION["spectrum_progression"]
SIGMA = np.array([0.2, 0.5, 0.8, 1.0])
KEYS = {"task": "inverse", "family": "f", "condition": "trained", "point_kind": "q_sample"}


def truth_of(eigenvalues):
    count = len(eigenvalues)
    columns = {"t": pa.array(range(count), pa.int32()), "sigma": pa.array(SIGMA[:count])}
    return pa.table(columns | {"eigenvalues": tensor_array(eigenvalues)})


def spectra_of(eigenvalues):
    """Two problems with the same spectra."""
    t = pa.array([*range(len(eigenvalues))] * 2, pa.int32())
    return pa.table({"t": t, "eigenvalues": tensor_array(torch.cat([eigenvalues, eigenvalues]))})


def metrics_of(values, **keys):
    """A metric table: values (problems, levels) of the hypothesis' metric, and rows of other things."""
    values = np.asarray(values, dtype=float)
    problem, t = np.indices(values.shape).reshape(2, -1)
    frame = pd.DataFrame({"problem_id": problem, "t": t, "sigma": SIGMA[t], "value": values.ravel()})
    frame = frame.assign(**KEYS, seed=3, metric=HYPOTHESIS.metric, component=HYPOTHESIS.component)
    frame = frame.assign(**keys)
    others = [
        frame.assign(metric="quantile_ratio", value=-1.0),
        frame.assign(component="H", value=-1.0),
        frame.assign(point_kind="minimum", value=-1.0),
    ]
    return pa.Table.from_pandas(pd.concat([frame, *others]), preserve_index=False)


@pytest.fixture
def eigenvalues(generator):
    return (0.1 + torch.rand(4, 6, generator=generator, dtype=torch.float64)).sort(1).values


def calibrate(spectra, metrics, eigenvalues):
    """Calibration where κ of these eigenvalues, (K, d), was planted for every problem of the metrics."""
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    expected = metrics_of([kappa] * len(set(metrics["problem_id"].to_pylist())))
    return calibration_table(REGISTRATION, spectra, truth_of(eigenvalues), {"hessian": metrics}, expected)


def rows(table, metric):
    return table.to_pandas().query("metric == @metric")


def test_an_exact_analysis_has_no_error(eigenvalues):
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    table = calibrate(spectra_of(eigenvalues), metrics_of([kappa, kappa]), eigenvalues)
    assert (rows(table, "spectrum_error")["value"] == 0).all()
    slope = np.polyfit(-np.log(SIGMA), np.log(kappa), 1)[0]
    (found,) = rows(table, "log_slope_error").itertuples()
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.planted == pytest.approx(slope, rel=1e-10)


def test_an_error_of_one_eigenvalue_at_one_level_is_found_there(eigenvalues):
    wrong = eigenvalues.clone()
    wrong[2, 1] += 1e-3
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    table = calibrate(spectra_of(wrong), metrics_of([kappa]), eigenvalues)
    found = rows(table, "spectrum_error").set_index("t")["value"]
    expected = 1e-3 / float(eigenvalues[2, -1])
    np.testing.assert_allclose(found, [0, 0, expected, 0], rtol=1e-9, atol=1e-15)


def test_the_worst_problem_decides_the_error_of_the_statistic(eigenvalues):
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    metrics = metrics_of([kappa, kappa * SIGMA**-0.2])
    table = calibrate(spectra_of(eigenvalues), metrics, eigenvalues)
    assert rows(table, "log_slope_error")["value"].item() == pytest.approx(0.2, rel=1e-10)
    assert gates(REGISTRATION, {"f": table})["hessian", "f"] == pytest.approx(0.2, rel=1e-10)


def test_what_cannot_be_compared_says_why_and_closes_the_gate(eigenvalues):
    part = spectra_of(eigenvalues[:, :3].contiguous())
    table = calibrate(part, metrics_of([[np.nan] * 4]), eigenvalues)
    assert (rows(table, "spectrum_error")["reason"] == "the engine returned part of the spectrum").all()
    assert "undefined on the planted network" in rows(table, "log_slope_error")["reason"].item()
    assert gates(REGISTRATION, {"f": table})["hessian", "f"] == np.inf


def test_a_problem_that_was_planted_and_not_found_closes_the_gate(eigenvalues):
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    table = calibration_table(
        REGISTRATION,
        spectra_of(eigenvalues),
        truth_of(eigenvalues),
        {"hessian": metrics_of([kappa])},
        metrics_of([kappa, kappa]),
    )
    assert "undefined on the planted network" in rows(table, "log_slope_error")["reason"].item()
    assert gates(REGISTRATION, {"f": table})["hessian", "f"] == np.inf


def test_what_nothing_planted_speaks_of_says_so(eigenvalues):
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    found = metrics_of([kappa])
    expected = metrics_of([[np.nan] * 4])
    table = calibration_table(
        REGISTRATION, spectra_of(eigenvalues), truth_of(eigenvalues), {"hessian": found}, expected
    )
    (reason,) = rows(table, "log_slope_error")["reason"]
    assert reason == "nothing planted says what condition_number should be"


def test_only_analyses_that_ran_and_hypotheses_about_the_task_are_calibrated(eigenvalues):
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    metrics, expected = metrics_of([kappa], task="addition"), metrics_of([kappa], task="addition")
    table = calibration_table(
        REGISTRATION,
        spectra_of(eigenvalues),
        truth_of(eigenvalues),
        {"hessian": metrics, "tangent": metrics},
        expected,
    )
    assert set(table["method"].to_pylist()) == {"hessian"}


def test_an_analysis_that_measures_its_own_recovery_is_taken_at_its_worst(eigenvalues):
    kappa = (eigenvalues[:, -1] / eigenvalues[:, 0]).numpy()
    metrics = metrics_of([kappa])
    recovery = {"metric": ["dictionary_recovery_error"] * 2, "value": [0.02, 0.07]}
    for values, worst in (([0.02, 0.07], 0.07), ([0.02, None], np.inf)):
        recovery["value"] = values
        table = calibration_table(
            REGISTRATION,
            spectra_of(eigenvalues),
            truth_of(eigenvalues),
            {"hessian": metrics, "sae": pa.table(recovery)},
            metrics,
        )
        assert gates(REGISTRATION, {"f": table})["sae", "f"] == worst


def test_what_was_not_looked_at_has_no_gate(eigenvalues):
    assert gates(REGISTRATION, {}) == {}


def test_a_missing_level_is_an_error(eigenvalues):
    with pytest.raises(TableError, match="no spectra at level 3"):
        calibrate(spectra_of(eigenvalues[:3].contiguous()), metrics_of([[1.0] * 4]), eigenvalues)


def test_samples_are_the_statistic_of_the_registered_metric_alone(seed):
    slopes = np.random.default_rng(seed).normal(size=5)
    found = samples_of(HYPOTHESIS, metrics_of(2 * SIGMA ** -slopes[:, None]))
    np.testing.assert_allclose(found["value"], slopes, rtol=1e-9)
    assert (found["seed"] == 3).all()
    assert set(found["hypothesis"]) == {"spectrum_progression"}


def test_samples_leave_out_tasks_and_conditions_the_hypothesis_does_not_speak_of():
    assert len(samples_of(HYPOTHESIS, metrics_of([[1.0, 2, 3, 4]], task="sudoku"))) == 0
    assert len(samples_of(HYPOTHESIS, metrics_of([[1.0, 2, 3, 4]], condition="another"))) == 0


def test_a_sample_that_cannot_be_computed_says_why(tmp_path):
    table = metrics_of([[1.0, 2, 3, 4], [1.0, np.nan, -1, 4]])
    found = samples_of(HYPOTHESIS, table)
    assert found["value"].isna().tolist() == [False, True]
    assert found["reason"][1] == "condition_number is usable at too few levels for log_slope: 2"
    assert found["reason"].isna()[0]
    write_table(pa.Table.from_pandas(found, preserve_index=False), tmp_path / "samples.parquet", {})


def test_a_model_without_a_seed_is_seed_zero_of_its_family():
    found = samples_of(HYPOTHESIS, metrics_of([[1.0, 2, 3, 4]], seed=pd.NA))
    assert found["seed"].tolist() == [0]


def test_samples_of_all_files_are_gathered(tmp_path):
    for index, condition in enumerate(("trained", "random_init")):
        table = metrics_of([[1.0, 2, 3, 4]], condition=condition)
        write_table(table, tmp_path / f"{index}.parquet", {})
    found = read_samples(REGISTRATION, {"hessian": [tmp_path / "0.parquet", tmp_path / "1.parquet"]})
    assert sorted(found["condition"]) == ["random_init", "trained"]
    assert not found[GROUP].isna().any(axis=None)
    assert len(read_samples(REGISTRATION, {"hessian": []})) == 0
