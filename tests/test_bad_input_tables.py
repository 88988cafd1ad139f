"""Tables that are damaged, of another kind, or without what a reader asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from bad_input import parquet
from bad_input.damage import cuts, flips
from bad_input.judging import all_refused, by_key, complaint, drawn, none_of, refused, unless_refused
from hypothesis import given
from hypothesis import strategies as st

from iredinterp.errors import ConfigError, TableError
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.samples import read_samples
from iredinterp.provenance import code_digest, file_sha256
from iredinterp.tables import gather, read_provenance, read_stream, read_table, tensor_column, write_table

REGISTERED = Path(__file__).parents[1] / "config/hypotheses.yaml"


@pytest.fixture
def table(seed):
    return parquet.metric_table(seed)


READERS = {
    "read_table": read_table,
    "read_columns": lambda path: read_table(path, ["value"]),
    "read_stream": lambda path: list(read_stream(path)),
    "read_provenance": read_provenance,
    "gather": lambda path: gather([path]),
}


@by_key(READERS)
def test_files_that_are_no_tables_of_ours_are_refused(case, table, tmp_path):
    path = tmp_path / "a.parquet"
    refused(TableError, path, lambda: case(path), "no such file")
    refused(TableError, tmp_path, lambda: case(tmp_path))
    write_table(table, path, {})
    all_refused(TableError, path, lambda: case(path), parquet.no_tables(table, path.read_bytes()))


@by_key({name: READERS[name] for name in ("read_table", "read_stream", "gather")})
def test_a_changed_byte_in_any_column_of_a_table_is_refused(case, table, tmp_path):
    path = tmp_path / "a.parquet"
    write_table(table, path, {})
    good = path.read_bytes()
    pages = {"without its head": good[4:], "its last half": good[len(good) // 2 :]}
    all_refused(TableError, path, lambda: case(path), parquet.damaged_columns(good) | pages)


@drawn(120)
@given(data=st.data())
def test_a_table_with_changed_bytes_is_refused_or_read_finite(data, table, tmp_path):
    path = tmp_path / "a.parquet"
    write_table(table, path, {"seed": 1})
    path.write_bytes(data.draw(flips(path.read_bytes())))
    found = unless_refused(TableError, path, lambda: read_table(path))
    for name in ("t", "sigma", "matrix") if found is not None else ():
        # Where the changed byte is part of the schema, the column may be gone, or be no numbers any more.
        numbers = unless_refused(TableError, name, lambda name=name: tensor_column(found, name))
        assert numbers is None or numbers.isfinite().all()


@drawn(30)
@given(data=st.data())
def test_a_table_cut_short_is_refused(data, table, tmp_path):
    path = tmp_path / "a.parquet"
    write_table(table, path, {})
    path.write_bytes(data.draw(cuts(path.read_bytes())))
    for read in READERS.values():
        refused(TableError, path, lambda read=read: read(path))


@pytest.mark.parametrize("undefined", [None, float("nan")])
@by_key({name: READERS[name] for name in ("read_table", "read_stream", "gather")})
def test_a_value_that_is_undefined_without_a_reason_is_refused_by_every_reader(
    case, undefined, table, tmp_path
):
    path = tmp_path / "a.parquet"
    values = pa.array([undefined, *table["value"].to_pylist()[1:]], pa.float64(), from_pandas=False)
    path.write_bytes(parquet.written(parquet.with_column(table, "value", values)))
    refused(TableError, path, lambda: case(path), "neither `value` nor `reason`")


def metrics(path):
    registration = read_hypotheses(REGISTERED)
    rising = replace(registration["spectrum_progression"], metric="condition_number", component="")
    return read_samples(replace(registration, hypotheses=(rising,)), {rising.analysis: [path]})


def test_a_table_that_is_no_metric_table_is_refused_by_its_column(table, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet.written(table))
    assert len(metrics(path))
    complaints = {}
    for name, (wrong, column) in parquet.wrong_columns(table).items():
        path.write_bytes(parquet.written(wrong))
        complaints[name] = complaint(TableError, path, lambda: metrics(path), repr(column))
    none_of(complaints)


def test_a_shard_with_other_columns_is_refused_by_its_file(table, tmp_path):
    good, odd = [tmp_path / f"{name}.parquet" for name in "abc"], tmp_path / "odd.parquet"
    for path in good:
        path.write_bytes(parquet.written(table))
    taller = torch.ones(table.num_rows, 3, 2, dtype=torch.float64)
    others = [
        parquet.with_column(table, "matrix", parquet.tensor_array(values))
        for values in (taller, taller.float())
    ]
    others += [table.drop_columns(["t"]), table.append_column("more", table["t"])]
    for other in others:
        odd.write_bytes(parquet.written(other))
        refused(TableError, odd, lambda: gather([*good, odd]), "differ")


def test_columns_that_are_no_numbers_throughout_are_refused_by_name(table):
    matrix = table["matrix"].combine_chunks()
    numbers = matrix.storage.flatten().to_pylist()
    storage = pa.FixedSizeListArray.from_arrays(pa.array([None, *numbers[1:]]), 6)
    holes = parquet.with_column(table, "matrix", pa.ExtensionArray.from_storage(matrix.type, storage))
    rows = pa.array([None, *matrix.storage.to_pylist()[1:]], matrix.storage.type)
    gaps = parquet.with_column(table, "matrix", pa.ExtensionArray.from_storage(matrix.type, rows))
    for wrong in (holes, gaps):
        refused(TableError, "'matrix'", lambda wrong=wrong: tensor_column(wrong, "matrix"), "nulls")
    for name in ("metric", "none"):
        refused(TableError, repr(name), lambda name=name: tensor_column(table, name))


def test_several_columns_of_one_name_are_refused(table, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet.written(table.append_column("t", table["t"])))
    refused(TableError, path, lambda: read_table(path, ["t"]), "'t'")


def test_inputs_and_scripts_that_cannot_be_read_are_refused(tmp_path):
    refused(ConfigError, tmp_path, lambda: file_sha256(tmp_path))
    refused(ConfigError, tmp_path / "none", lambda: file_sha256(tmp_path / "none"))
    script = tmp_path / "script.py"
    refused(ConfigError, script, lambda: code_digest(script, tmp_path))
    sources = (b"x = (", b"\x00", b"# coding: none\n", b"\xff\xfe = 1", b"x = " + b"-" * 100_000 + b"1")
    files = {repr(source[:20]): source for source in sources}
    all_refused(ConfigError, script, lambda: code_digest(script, tmp_path), files)
