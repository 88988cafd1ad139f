"""What an analysis found on a planted network against what was planted; it sees tables alone.

A hypothesis is decided only where its analysis passes this at the same sizes, precision and settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from iredinterp.errors import TableError
from iredinterp.evidence.hypotheses import Hypothesis, Registration
from iredinterp.evidence.samples import samples_of
from iredinterp.evidence.statistics import level_statistic
from iredinterp.tables import tensor_column

SCHEMA = pa.schema(
    {"method": pa.string(), "metric": pa.string(), "t": pa.int32(), "value": pa.float64()}
    | {"planted": pa.float64(), "reason": pa.string()}
)
# Planted metrics as functions of the planted eigenvalues, (K, d).
PLANTED_METRICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "condition_number": lambda eigenvalues: abs(eigenvalues).max(1) / abs(eigenvalues).min(1),
}
METHOD = "hessian"
PARTIAL = "the engine returned part of the spectrum"


def calibration_table(
    registration: Registration, spectra: pa.Table, metrics: pa.Table, truth: pa.Table
) -> pa.Table:
    """Errors of EXP-001 on a planted network.

    Args:
        registration: whose hypotheses about this analysis are calibrated.
        spectra, metrics: gathered tables of EXP-001 on the planted network.
        truth: the planted spectrum, one row per level: `t`, `sigma`, tensor `eigenvalues`.

    Returns:
        Rows of method, metric, t (null for what speaks of all levels), value and planted:

        * spectrum_error, per level: largest |λ̂_i − λ_i| over points and i, over |λ|max.
        * of each hypothesis, under its gate's metric, e.g. log_slope_error: largest |found − planted| of its
          statistic over problems; `planted` is the value to be found.

        Null with a reason where it cannot be said.

    Raises:
        TableError: the spectra lack a level of the truth.
    """
    rows = list(spectrum_errors(spectra, truth))
    for hypothesis in registration.hypotheses:
        if hypothesis.gate.method == METHOD:
            rows.append(statistic_error(hypothesis, metrics, truth))
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
        row = {"method": METHOD, "metric": "spectrum_error", "t": t}
        if found.shape[1] < len(expected):
            yield row | {"reason": PARTIAL}
        else:
            yield row | {"value": abs(here - expected).max() / abs(expected).max()}


def statistic_error(hypothesis: Hypothesis, metrics: pa.Table, truth: pa.Table) -> dict:
    """The row of one hypothesis, see `calibration_table`."""
    row = {"method": METHOD, "metric": hypothesis.gate.metric}
    if hypothesis.metric not in PLANTED_METRICS:
        return row | {"reason": f"nothing planted says what {hypothesis.metric} should be"}
    levels = pd.DataFrame({name: truth[name].to_numpy() for name in ("t", "sigma")})
    values = PLANTED_METRICS[hypothesis.metric](tensor_column(truth, "eigenvalues").numpy())
    planted = level_statistic(levels.assign(value=values, unit=0), hypothesis.statistic, ["unit"])
    planted = planted["value"].item()
    found = samples_of(hypothesis, metrics)["value"]
    if not len(found) or found.isna().any():
        missing = f"{hypothesis.statistic} of {hypothesis.metric} is undefined on the planted network"
        return row | {"planted": planted, "reason": missing}
    return row | {"planted": planted, "value": abs(found - planted).max()}


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
