"""What two tables of ours have in common, and by how much their numbers differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from iredinterp.errors import TableError

# Of metric tables, beside `value`: not a key, for it explains an undefined value.
EXPLANATION = "reason"
# Columns of which each metric gets a line of its own.
BY_METRIC = ("value", "stderr", EXPLANATION)


@dataclass(frozen=True)
class Pairs:
    """Rows that two tables have in common, in the same order.

    Attributes:
        one: columns that are no keys, by name; numbers as (N,) or (N, d) arrays, else as objects.
        other: likewise.
        group: (N,), the metric that each row is about, or "".
    """

    one: Mapping[str, np.ndarray]
    other: Mapping[str, np.ndarray]
    group: np.ndarray


def compare_columns(one: pa.Table, other: pa.Table) -> tuple[list[str], list[str]]:
    """Lines about columns that only one table has or that differ in type, and the names of the others."""
    types = [{field.name: str(field.type) for field in table.schema} for table in (one, other)]
    lines, shared = [], []
    for name in dict.fromkeys([*types[0], *types[1]]):
        found = [type.get(name) for type in types]
        if None in found:
            lines.append(f"column {name}: only in the {'second' if found[0] is None else 'first'}")
        elif found[0] != found[1]:
            lines.append(f"column {name}: {found[0]} in the first, {found[1]} in the second")
        else:
            shared.append(name)
    return lines, shared


def compare_rows(one: pa.Table, other: pa.Table, keys: Sequence[str] | None) -> tuple[list[str], Pairs]:
    """Lines about rows that only one table has, and the others in pairs.

    Rows of equal keys are told apart by their order.

    Args:
        one: a table.
        other: with the same columns.
        keys: columns that say which row is which, or None for all texts, integers and booleans.

    Raises:
        TableError: there is no such key.
    """
    keys = _default_keys(one.schema) if keys is None else keys
    for key in keys:
        if key not in one.column_names:
            raise TableError(f"--keys: both tables need {key!r}; they have {', '.join(one.column_names)}")
    # pandas cannot merge texts of two empty tables.
    if not one.num_rows + other.num_rows:
        return [], Pairs({}, {}, np.empty(0, object))
    frames = [_keyed(table, keys) for table in (one, other)]
    on = [*keys, "_copy"]
    merged = frames[0].merge(frames[1], on=on, how="outer", suffixes=("_one", "_other"), indicator="_side")
    lines = []
    for side, place in (("left_only", "first"), ("right_only", "second")):
        lonely = merged[merged["_side"] == side]
        if len(lonely):
            telling = [key for key in keys if merged[key].nunique(dropna=False) > 1]
            example = ", ".join(f"{key} = {lonely[key].iloc[0]}" for key in telling)
            lines.append(f"rows: {len(lonely):,} only in the {place}, such as {example or 'the last'}")
    both = merged[merged["_side"] == "both"]
    values = [name for name in one.column_names if name not in keys]
    tables = [
        {name: _array(table[name], both[row].astype("int64")) for name in values}
        for table, row in ((one, "_row_one"), (other, "_row_other"))
    ]
    group = both["metric"].to_numpy(object) if "metric" in keys else np.full(len(both), "", object)
    return lines, Pairs(*tables, group)


def compare_values(pairs: Pairs, rtol: float, atol: float) -> tuple[list[str], bool]:
    """A line per metric and column with its largest differences, and whether all are within tolerance."""
    lines, equal = [], True
    everywhere = {"": np.full(len(pairs.group), True)}
    by_metric = {metric: pairs.group == metric for metric in sorted(set(pairs.group))}
    for name, one in pairs.one.items():
        other = pairs.other[name]
        for metric, rows in (by_metric if name in BY_METRIC else everywhere).items():
            if one.dtype == object:
                line, same = _changed(one[rows], other[rows])
            else:
                line, same = _largest(one[rows], other[rows], rtol, atol)
            lines += [f"{metric} {name}: {line}".strip()] if line else []
            equal = equal and same
    return lines, equal


def compare_provenance(one: Mapping, other: Mapping) -> list[str]:
    """Which parameter, seed, input, code or version differs, with both values."""
    entries = [dict(_leaves(record)) for record in (one, other)]
    names = sorted(entries[0].keys() | entries[1].keys())
    found = [(name, *(entry.get(name, "absent") for entry in entries)) for name in names]
    return [f"{name}: {_short(a)} | {_short(b)}" for name, a, b in found if a != b]


def _default_keys(schema: pa.Schema) -> list[str]:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    is_key = {field.name: any(is_kind(field.type) for is_kind in kinds) for field in schema}
    return [name for name, key in is_key.items() if key and name != EXPLANATION]


def _keyed(table: pa.Table, keys: Sequence[str]) -> pd.DataFrame:
    frame = table.select(keys).to_pandas()
    # A missing key equals a missing key.
    copy = frame.groupby(list(keys), dropna=False).cumcount() if keys else pd.Series(range(table.num_rows))
    return frame.assign(_copy=copy.to_numpy(), _row=np.arange(table.num_rows))


def _array(column: pa.ChunkedArray, rows: pd.Series) -> np.ndarray:
    if rows.empty:
        return np.empty(0)
    column = column.combine_chunks().take(pa.array(rows))
    if isinstance(column, pa.ExtensionArray):
        return column.to_numpy_ndarray().reshape(len(column), math.prod(column.type.shape)).astype(np.float64)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.array(column.to_pylist(), dtype=object)


def _changed(one: np.ndarray, other: np.ndarray) -> tuple[str, bool]:
    """How many objects differ, in words, empty if none do."""
    count = sum(a != b for a, b in zip(one, other, strict=True))
    return (f"differs in {count:,} of {len(one):,} rows" if count else ""), not count


def _largest(one: np.ndarray, other: np.ndarray, rtol: float, atol: float) -> tuple[str, bool]:
    """The largest differences of two arrays in words, empty if there are none."""
    undefined = int((np.isnan(one) != np.isnan(other)).sum())
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    comparable = ~same & np.isfinite(one) & np.isfinite(other)
    infinite = int((~same & ~comparable).sum()) - undefined
    if same.all():
        return "", True
    a, b = one[comparable], other[comparable]
    size = np.maximum(np.abs(a), np.abs(b))
    apart = np.abs(a - b)
    beyond = int((apart > atol + rtol * size).sum())
    parts = []
    if len(a):
        largest = f"at most {apart.max():.3g} apart, relatively {(apart / size).max():.3g}"
        parts.append(f"{largest}; {beyond:,} beyond tolerance")
    parts += [f"{undefined:,} undefined in one of them"] if undefined else []
    parts += [f"{infinite:,} infinite in one of them"] if infinite else []
    return "; ".join(parts), not (beyond or undefined or infinite)


def _leaves(value, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _leaves(entry, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
