"""What EXP-001 finds on a planted network opens its gate, and what it would find on another one closes it."""

import numpy as np
import pytest
import torch
from test_metamorphic import HYPOTHESIS, KEYS, PASSED, REGISTRATION, D, analysed, inverse_problems

from iredinterp.energy import MLPEnergy
from iredinterp.evidence.calibration import calibration_table, gates
from iredinterp.evidence.samples import samples_of
from iredinterp.evidence.verdicts import judge
from iredinterp.expected import expected_table
from iredinterp.points import points_table
from iredinterp.tables import tensor_column
from iredinterp.truth.planted import EVERY_DECOY, planted
from iredinterp.truth.planted.truth import spectrum_table


def calibrated(results, truth, problems):
    settings = {"tangent": {"rank": None}, "grassmann": {"rank": None, "draws": 1, "seed": 0}}
    settings["annealing"] = {"seed": 0}
    expected = expected_table(truth, problems, KEYS, **settings)
    metrics = {"hessian": results.metrics}
    return calibration_table(REGISTRATION, results.spectra, spectrum_table(truth), metrics, expected)


def test_the_planted_network_is_recovered_and_passes_its_gate(seed):
    network, problems = planted(D, D, seed, decoys=EVERY_DECOY), inverse_problems(seed, 4)
    energy, truth = MLPEnergy(network.model), network.truth
    points = points_table(energy, problems, KEYS, ["q_sample", "trajectory", "minimum"], seed)
    results = analysed(energy, points, problems)
    found, t = tensor_column(results.spectra, "eigenvalues"), results.spectra["t"].to_numpy()
    planted_values = truth.spectrum.sort(dim=1).values
    torch.testing.assert_close(found, planted_values[torch.tensor(t).long()], rtol=1e-10, atol=0)

    ln_kappa = (planted_values[:, -1] / planted_values[:, 0]).log().numpy()
    expected, _ = np.polyfit(-truth.schedule.sigma.log().numpy(), ln_kappa, 1)
    slopes = samples_of(HYPOTHESIS, results.metrics)["value"]
    assert len(slopes) == 4
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=1e-10)

    calibration = calibrated(results, truth, problems)
    rows = calibration.to_pandas().set_index("metric")
    assert rows.loc["spectrum_error", "t"].tolist() == list(range(10))
    assert rows.loc["spectrum_error", "value"].max() < 1e-10
    assert rows.loc[HYPOTHESIS.gate.metric, "planted"] == pytest.approx(expected, abs=1e-10)
    assert rows.loc[HYPOTHESIS.gate.metric, "value"] < 1e-10
    errors = gates(REGISTRATION, {"inverse-n3": calibration})
    assert errors.keys() == PASSED.keys()
    judged = judge(REGISTRATION, samples_of(HYPOTHESIS, results.metrics), errors)
    assert [found.gate_passed for found in judged if found.family] == [True]


def test_a_spectrum_that_is_not_the_planted_one_fails_the_gate(seed):
    """Eigenvalues to the power p have a slope p times as steep."""
    problems = inverse_problems(seed, 4)
    power, plan = 1.5, planted(D, D, seed)
    steeper = planted(D, D, seed, plan.truth.spectrum**power)
    energy = MLPEnergy(steeper.model)
    points = points_table(energy, problems, KEYS, ["q_sample"], seed)
    results = analysed(energy, points, problems)
    calibration = calibrated(results, plan.truth, problems)
    rows = calibration.to_pandas().set_index("metric")
    expected = (power - 1) * rows.loc[HYPOTHESIS.gate.metric, "planted"]
    assert rows.loc[HYPOTHESIS.gate.metric, "value"] == pytest.approx(abs(expected), rel=1e-9)
    right, wrong = (network.truth.spectrum for network in (plan, steeper))
    errors = (wrong - right).abs().amax(1) / right.amax(1)
    np.testing.assert_allclose(rows.loc["spectrum_error", "value"], errors, rtol=1e-9)
    errors = gates(REGISTRATION, {"inverse-n3": calibration})
    judged = judge(REGISTRATION, samples_of(HYPOTHESIS, results.metrics), errors)
    assert [found.verdict for found in judged if found.family] == ["INVALID"]
