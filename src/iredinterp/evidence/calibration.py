"""What an analysis found on a planted network against what was planted; it sees tables alone.

A hypothesis is decided only where its analysis passes this at the same sizes, precision and settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iredinterp.errors import TableError
from iredinterp.evidence.hypotheses import Hypothesis, Registration
from iredinterp.evidence.samples import samples_of
from iredinterp.tables import tensor_column

SCHEMA = pa.schema(
    {"method": pa.string(), "metric": pa.string(), "t": pa.int32(), "value": pa.float64()}
    | {"planted": pa.float64(), "reason": pa.string()}
)
SPECTRUM_METHOD = "hessian"
PARTIAL = "the engine returned part of the spectrum"
UNIT = ["task", "family", "condition", "seed", "problem_id"]


def calibration_table(
    registration: Registration,
    spectra: pa.Table,
    truth: pa.Table,
    metrics: Mapping[str, pa.Table],
    expected: pa.Table,
) -> pa.Table:
    """Errors of the analyses on a planted network.

    Args:
        registration: whose hypotheses are calibrated.
        spectra: gathered spectra of EXP-001 on the planted network.
        truth: the planted spectrum, one row per level: `t`, `sigma`, tensor `eigenvalues`.
        metrics: by name of the analysis, its gathered metric table on the planted network.
        expected: a metric table that holds what is to be found there.

    Returns:
        Rows of method, metric, t (null for what speaks of all levels), value and planted:

        * spectrum_error, per level: largest |λ̂_i − λ_i| over points and i, over |λ|max.
        * of each hypothesis about this task, under its gate's metric: where its analysis wrote that metric,
          its largest value; else, e.g. log_slope_error, the largest |found − planted| of its statistic over
          problems, and `planted` the value to be found where that is.

        Null with a reason where it cannot be said.

    Raises:
        TableError: the spectra lack a level of the truth.
    """
    rows = list(spectrum_errors(spectra, truth))
    (task,) = pc.unique(expected["task"]).to_pylist()
    for hypothesis in registration.hypotheses:
        if task in hypothesis.tasks and hypothesis.gate.method in metrics:
            found = metrics[hypothesis.gate.method]
            rows.append(measured_error(hypothesis, found) or statistic_error(hypothesis, found, expected))
    return pa.Table.from_pylist(rows, SCHEMA)


def spectrum_errors(spectra: pa.Table, truth: pa.Table) -> Iterable[dict]:
    """One row per level, see `calibration_table`."""
    planted = tensor_column(truth, "eigenvalues").numpy()
    found = tensor_column(spectra, "eigenvalues").numpy()
    for t, expected in zip(truth["t"].to_pylist(), planted, strict=True):
        here = found[spectra["t"].to_numpy() == t]
        if not len(here):
            raise TableError(
                f"calibration: no spectra at level {t}; analyse the planted network at all levels"
            )
        row = {"method": SPECTRUM_METHOD, "metric": "spectrum_error", "t": t}
        if found.shape[1] < len(expected):
            yield row | {"reason": PARTIAL}
        else:
            yield row | {"value": abs(here - expected).max() / abs(expected).max()}


def measured_error(hypothesis: Hypothesis, metrics: pa.Table) -> dict | None:
    """The row of a hypothesis whose analysis measured its gate's metric itself; None if it did not."""
    gate = hypothesis.gate
    values = metrics.filter(pc.equal(metrics["metric"], gate.metric))["value"]
    if not len(values):
        return None
    row = {"method": gate.method, "metric": gate.metric}
    if values.null_count:
        return row | {"reason": f"{gate.metric} is undefined on planted data"}
    return row | {"value": pc.max(values).as_py()}


def statistic_error(hypothesis: Hypothesis, metrics: pa.Table, expected: pa.Table) -> dict:
    """The row of one hypothesis, see `calibration_table`."""
    row = {"method": hypothesis.gate.method, "metric": hypothesis.gate.metric}
    planted, found = (samples_of(hypothesis, table) for table in (expected, metrics))
    if planted["value"].isna().all():
        return row | {"reason": f"nothing planted says what {hypothesis.metric} should be"}
    both = planted.merge(found, "left", UNIT, suffixes=("_planted", "_found"))
    error = (both["value_found"] - both["value_planted"]).abs()
    if error.isna().any():
        missing = f"{hypothesis.statistic} of {hypothesis.metric} is undefined on the planted network"
        return row | {"planted": both["value_planted"].mean(), "reason": missing}
    return row | {"planted": both["value_planted"][error.idxmax()], "value": error.max()}


def gates(registration: Registration, calibrations: Mapping[str, pa.Table]) -> dict[tuple[str, str], float]:
    """Errors as `iredinterp.evidence.verdicts.judge` takes them.

    Args:
        registration: names the metric of each gate.
        calibrations: by family, the calibration table of its problems.

    Returns:
        By (gate method, family): the error, infinite where it could not be said; nothing where it was not
        looked at.
    """
    found = {}
    for family, table in calibrations.items():
        for gate in {hypothesis.gate for hypothesis in registration.hypotheses}:
            rows = pc.and_(pc.equal(table["method"], gate.method), pc.equal(table["metric"], gate.metric))
            values = table.filter(rows)["value"]
            if len(values):
                worst = pc.max(pc.fill_null(values, np.inf)).as_py()
                found[gate.method, family] = max(worst, found.get((gate.method, family), 0.0))
    return found
