"""From metric tables to one number per hypothesis, seed, problem and condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from iredinterp.errors import TableError
from iredinterp.evidence.hypotheses import Hypothesis, Registration
from iredinterp.evidence.statistics import level_statistic
from iredinterp.evidence.verdicts import SAMPLE_KEYS
from iredinterp.tables import read_table

GROUP = ["task", "family", "condition", "seed", "problem_id"]
COLUMNS = [*GROUP, "t", "sigma", "point_kind", "metric", "component", "value"]
# Texts that every row has; a row that is no point has neither problem, level nor kind of point.
NAMES = ("task", "family", "condition", "metric", "component")
POINT = ("problem_id", "t", "sigma")
# A column of nulls alone may have no type.
NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)


def read_samples(registration: Registration, tables: Mapping[str, Iterable[str | Path]]) -> pd.DataFrame:
    """The registered statistic of every hypothesis whose analysis was run.

    Args:
        registration: the hypotheses.
        tables: by name of the analysis, its metric tables, of any models, conditions and problems.

    Returns:
        The samples that `iredinterp.evidence.verdicts.judge` takes, undefined ones with a reason.

    Raises:
        TableError: a file is no metric table; names file and column.
    """
    parts = []
    for analysis, paths in tables.items():
        hypotheses = [entry for entry in registration.hypotheses if entry.analysis == analysis]
        for path in paths if hypotheses else ():
            table = read_table(path, COLUMNS)
            try:
                _check(table)
                parts += [samples_of(hypothesis, table) for hypothesis in hypotheses]
            except TableError as error:
                raise TableError(f"{path}: {error}; make the table again") from error
    empty = pd.DataFrame(columns=[*SAMPLE_KEYS, "value", "reason"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def samples_of(hypothesis: Hypothesis, table: pa.Table) -> pd.DataFrame:
    """Its statistic for every task it speaks of, condition it compares, seed and problem of a metric table.

    Args:
        hypothesis: says which metric, component and kind of point.
        table: columns `COLUMNS`. A model without a training seed counts as seed 0 of its family.

    Returns:
        Columns `SAMPLE_KEYS`, `value`, and `reason` where the value is NaN.

    Raises:
        TableError: a point of the metric lacks its problem or level.
    """
    wanted = {"metric": hypothesis.metric, "component": hypothesis.component}
    wanted |= {"point_kind": hypothesis.point_kind}
    for column, value in wanted.items():
        table = table.filter(pc.equal(table[column], value))
    table = table.filter(pc.is_in(table["task"], pa.array(hypothesis.tasks)))
    table = table.filter(pc.is_in(table["condition"], pa.array(hypothesis.conditions)))
    for column in POINT:
        if count := table[column].null_count:
            raise TableError(f"column {column!r} has {count} nulls where {hypothesis.metric} is measured")
    frame = table.select([*GROUP, "t", "sigma", "value"]).to_pandas()
    frame["seed"] = frame["seed"].fillna(0).astype(int)
    found = level_statistic(frame, hypothesis.statistic, GROUP)
    undefined = f"{hypothesis.metric} is usable at too few levels for {hypothesis.statistic}: "
    reason = (undefined + found["levels"].astype(str)).where(found["value"].isna(), None)
    return found.assign(hypothesis=hypothesis.id, reason=reason)[[*SAMPLE_KEYS, "value", "reason"]]


def _check(table: pa.Table) -> None:
    """Refuse columns of another type, and rows without a name."""
    for column in COLUMNS:
        type, is_text = table[column].type, column in (*NAMES, "point_kind")
        kinds = (pa.types.is_string, pa.types.is_large_string) if is_text else NUMERIC
        if not any(is_kind(type) for is_kind in kinds):
            raise TableError(f"column {column!r} holds {type}, expected {'text' if is_text else 'numbers'}")
    for column in NAMES:
        if count := table[column].null_count:
            raise TableError(f"column {column!r} has {count} nulls")
