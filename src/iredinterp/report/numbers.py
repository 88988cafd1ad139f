"""Tables of numbers: a quantity of a model beside that of its nulls and of the Bayes-optimal energy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iredinterp.report.claims import COMPARED
from iredinterp.report.pages import Quantity
from iredinterp.tables import read_provenance, read_table

ITEM = ["model", "condition", "problem_id"]


@dataclass(frozen=True)
class Cell:
    """Median over problems; None with a reason where it is undefined for all of them."""

    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One quantity.

    Attributes:
        quantity: what it is.
        place: the level, or the value of another column; None where it speaks of all.
        cells: by condition.
        problems: that the trained model's median is over.
    """

    quantity: Quantity
    place: float | None
    cells: dict[str, Cell]
    problems: int


@dataclass(frozen=True)
class Numbers:
    """The table of one model.

    Attributes:
        model: its name.
        conditions: of the columns, the trained model first.
        rows: in the order of the page.
    """

    model: str
    conditions: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def reasons(self) -> list[str]:
        """Why cells are undefined, each reason once, in order of appearance."""
        found = (cell.reason for row in self.rows for cell in row.cells.values() if cell.value is None)
        return list(dict.fromkeys(reason for reason in found if reason))


def numbers(paths: Iterable[str | Path], quantities: Sequence[Quantity]) -> list[Numbers]:
    """Medians over problems, a table per model.

    Draws and seeds of one problem are averaged first. Of the levels that the trained model was measured at,
    the noisiest, the middle and the sharpest are shown. Searches that did not converge are left out.

    Args:
        paths: metric tables of any models and conditions.
        quantities: what to tabulate; one that no table has is left out.

    Raises:
        TableError: a file is no table of ours.
    """
    rows = [_rows(path, quantities) for path in paths]
    if not rows or not quantities:
        return []
    frame = pd.concat(rows, ignore_index=True)
    tables = []
    for model, mine in frame.groupby("model", sort=True):
        conditions = tuple(name for name in ("trained", *COMPARED) if (mine["condition"] == name).any())
        found = [row for quantity in quantities for row in _tabulated(mine, quantity, conditions)]
        if found:
            tables.append(Numbers(str(model), conditions, tuple(found)))
    return tables


def _rows(path: str | Path, quantities: Sequence[Quantity]) -> pd.DataFrame:
    extra = {column for quantity in quantities for column in (quantity.by, *quantity.where)}
    wanted = [
        *ITEM,
        "point_kind",
        "converged",
        "metric",
        "component",
        "index",
        "value",
        "reason",
        *sorted(extra),
    ]
    available = _columns(path)
    table = read_table(path, [name for name in wanted if name in available])
    table = table.filter(pc.is_in(table["metric"], pa.array([entry.metric for entry in quantities])))
    return table.filter(pc.equal(table["index"], 0)).to_pandas()


def _columns(path: str | Path) -> list[str]:
    # Refuses what is no table of ours, which reading the schema alone does not.
    read_provenance(path)
    return pq.read_schema(path).names


def _tabulated(frame: pd.DataFrame, quantity: Quantity, conditions: Sequence[str]) -> list[Row]:
    chosen = frame["metric"].eq(quantity.metric) & frame["component"].eq(quantity.component)
    chosen &= frame["point_kind"].eq(quantity.at)
    for column, value in quantity.where.items():
        chosen &= frame[column].eq(value)
    mine = frame[chosen]
    if "converged" in mine:
        mine = mine[mine["converged"].ne(False)]
    trained = mine.loc[mine["condition"] == "trained", quantity.by]
    return [_row(mine, quantity, place, conditions) for place in _places(trained, quantity.by)]


def _places(values: pd.Series, by: str) -> list[float | None]:
    known = sorted(values.dropna().unique().tolist(), reverse=by == "t")
    if by == "t":
        known = list(dict.fromkeys(known[i] for i in (0, len(known) // 2, -1))) if known else []
    return known or ([None] if len(values) else [])


def _row(frame: pd.DataFrame, quantity: Quantity, place: float | None, conditions: Sequence[str]) -> Row:
    here = frame[frame[quantity.by].isna() if place is None else frame[quantity.by].eq(place)]
    by_condition = dict(list(here.groupby("condition")))
    means = by_condition["trained"].groupby("problem_id", dropna=False)["value"].mean()
    cells = {name: _cell(by_condition.get(name)) for name in conditions}
    return Row(quantity, place, cells, int(means.notna().sum()))


def _cell(rows: pd.DataFrame | None) -> Cell:
    if rows is None:
        return Cell(None, "not measured in this condition")
    median = rows.groupby("problem_id", dropna=False)["value"].mean().median()
    if pd.notna(median):
        return Cell(float(median))
    reasons = rows["reason"].dropna()
    return Cell(None, str(reasons.mode().iloc[0]) if len(reasons) else "")
