"""Metric tables as Parquet files, broken as bytes, in their footer, and in their columns."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bad_input.damage import flipped

from iredinterp.tables import SCHEMA_VERSION, tensor_array

OURS = {"iredinterp": json.dumps({"schema_version": SCHEMA_VERSION})}


def metric_table(seed: int, rows: int = 60) -> pa.Table:
    """A metric table with a matrix in every row; a few values are undefined and say why."""
    rng = np.random.default_rng(seed)
    undefined = np.arange(rows) % 7 == 3
    names = {"task": "inverse", "family": "net", "condition": "trained", "point_kind": "q_sample"}
    columns = {name: pa.array([value] * rows) for name, value in names.items()}
    return pa.table(
        {
            **columns,
            "seed": pa.array(np.arange(rows) % 3),
            "problem_id": pa.array(np.arange(rows) // 10),
            "t": pa.array(np.arange(rows) % 10),
            "sigma": pa.array(0.1 + rng.random(rows)),
            "metric": pa.array(["condition_number"] * rows),
            "component": pa.array([""] * rows),
            "value": pa.array(1 + rng.random(rows), mask=undefined),
            "reason": pa.array(np.full(rows, "no gap"), mask=~undefined),
            "matrix": tensor_array(1 + rng.random((rows, 2, 3))),
        }
    )


def written(table: pa.Table, footer: dict | None = OURS, **options) -> bytes:
    """Parquet by pyarrow alone, past the checks of our own writer."""
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(footer), file, **options)
    return file.getvalue()


def no_tables(table: pa.Table, good: bytes) -> dict[str, bytes]:
    """Whole files of another kind, and Parquet that is not ours."""
    arrow = io.BytesIO()
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    footers = {
        "no provenance": None,
        "a footer of pandas alone": {"pandas": "{}"},
        "an empty footer": {"iredinterp": ""},
        "a footer of no JSON": {"iredinterp": "{"},
        "a footer of no UTF-8": {b"iredinterp": b"\xff\xfe"},
        "a list for a footer": {"iredinterp": "[1]"},
        "a number for a footer": {"iredinterp": "1"},
        "null for a footer": {"iredinterp": "null"},
        "a footer nested deep": {"iredinterp": "[" * 100_000},
        "no schema version": {"iredinterp": "{}"},
        "an older schema": {"iredinterp": json.dumps({"schema_version": SCHEMA_VERSION - 1})},
        "a later schema": {"iredinterp": json.dumps({"schema_version": SCHEMA_VERSION + 1})},
        "a schema version in words": {"iredinterp": json.dumps({"schema_version": "one"})},
        "no schema version but null": {"iredinterp": json.dumps({"schema_version": None})},
    }
    return {name: written(table, footer) for name, footer in footers.items()} | {
        "empty": b"",
        "a CSV": b"task,metric,value\ninverse,gap,1.0\n",
        "text": b"no table\n",
        "zeros": bytes(5000),
        "magic alone": b"PAR1",
        "magic twice": b"PAR1PAR1",
        "a footer of no length": b"PAR1" + bytes(4) + b"PAR1",
        "a footer past the start": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
        "encrypted": good[:-4] + b"PARE",
        "an Arrow file": arrow.getvalue(),
        "its first half": good[: len(good) // 2],
        "twice its first half": good[: len(good) // 2] * 2,
        "a footer of zeros": good[:-200] + bytes(192) + good[-8:],
    }


def damaged_columns(good: bytes) -> dict[str, bytes]:
    """The file with the last number, or letter, of one column changed."""
    group = pq.ParquetFile(io.BytesIO(good)).metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    starts = [c.dictionary_page_offset or c.data_page_offset for c in chunks]
    ends = [start + chunk.total_compressed_size - 1 for start, chunk in zip(starts, chunks, strict=True)]
    return {c.path_in_schema: flipped(good, [(end, 1)]) for c, end in zip(chunks, ends, strict=True)}


KEYS = ("task", "family", "condition", "problem_id", "t", "sigma", "point_kind", "metric", "component")


def with_column(table: pa.Table, name: str, column) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def wrong_columns(table: pa.Table) -> dict[str, tuple[pa.Table, str]]:
    """Tables that are Parquet of ours but no metric table, by what is wrong, each with the column at fault."""
    rows = table.num_rows
    cases = {f"{name} missing": (table.drop_columns([name]), name) for name in (*KEYS, "seed", "value")}
    cases |= {f"{name} renamed": (table.rename_columns({name: f"{name}_"}), name) for name in KEYS}
    for name in (key for key in KEYS if key != "point_kind"):
        holes = pa.array([None, *table[name].to_pylist()[1:]], table[name].type)
        cases[f"{name} null"] = (with_column(table, name, holes), name)
    for name in (*KEYS, "seed", "value"):
        other = pa.array(range(rows)) if pa.types.is_string(table[name].type) else pa.array(["a"] * rows)
        cases[f"{name} of another type"] = (with_column(table, name, other), name)
        lists = pa.array([[1.0, 2.0]] * rows)
        cases[f"{name} of lists"] = (with_column(table, name, lists), name)
    return cases
