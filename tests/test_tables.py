"""Tables: what is written comes back, sorted and with its provenance, or an error says what to do."""

import os
import subprocess
import sys
import weakref
from importlib.metadata import version
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from iredinterp import tables
from iredinterp.errors import TableError
from iredinterp.tables import (
    Metric,
    gather,
    read_provenance,
    read_stream,
    read_table,
    tensor_array,
    tensor_column,
    tidy,
    write_stream,
    write_table,
)


def shuffled_table(seed: int, rows: int = 200) -> tuple[pa.Table, torch.Tensor]:
    """Rows in random order, one matrix each; the matrix of row `item` is filled with `item`."""
    rng = np.random.default_rng(seed)
    item = rng.permutation(rows)
    matrices = torch.from_numpy(item.astype(float))[:, None, None].expand(rows, 2, 3)
    table = pa.table(
        {
            "task": pa.array([f"task{i % 3}" for i in item]).dictionary_encode(),
            "kappa": pa.array(rng.random(rows)),
            "trained": pa.array(item % 2 == 0),
            "item": pa.array(item),
            "matrix": tensor_array(matrices),
        }
    )
    return table, matrices


def bytes_of(table: pa.Table, path) -> bytes:
    write_table(table, path, {"seed": 1})
    return path.read_bytes()


def only(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_rows_come_back_sorted_by_every_key_column_and_matrices_move_with_their_row(tmp_path, seed):
    table, _ = shuffled_table(seed)
    write_table(table, tmp_path / "new" / "folder" / "a.parquet", {})
    read = read_table(tmp_path / "new" / "folder" / "a.parquet")
    keys = list(zip(*(read[name].to_pylist() for name in ("task", "trained", "item")), strict=True))
    assert keys == sorted(
        zip(*(table[name].to_pylist() for name in ("task", "trained", "item")), strict=True)
    )
    expected = tensor_column(read, "item").double()[:, None, None].expand(-1, 2, 3)
    assert torch.equal(tensor_column(read, "matrix"), expected)


def test_bytes_do_not_depend_on_row_order_chunks_dictionaries_or_folder(tmp_path, seed):
    table, _ = shuffled_table(seed)
    once = bytes_of(table, tmp_path / "a.parquet")
    order = np.random.default_rng(seed + 1).permutation(table.num_rows)
    halves = [table.take(order[:50]), table.take(order[50:])]
    halves = [half.set_column(0, "task", half["task"].cast(pa.string())) for half in halves]
    assert bytes_of(pa.concat_tables(halves), tmp_path / "elsewhere" / "seed=3" / "b.parquet") == once
    without_keys = table.select(["kappa"])
    pieces = pa.concat_tables([without_keys.slice(0, 50), without_keys.slice(50)])
    assert bytes_of(pieces, tmp_path / "c.parquet") == bytes_of(without_keys, tmp_path / "d.parquet")


def test_footer_holds_provenance_and_versions_in_sorted_json_and_nothing_of_pandas(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pa.Table.from_pandas(pa.table({"k": [2, 1]}).to_pandas())
    write_table(frame, path, {"seed": 7, "parameters": {"b": 1, "a": [1, 2]}})
    assert read_provenance(path) == {
        "schema_version": tables.SCHEMA_VERSION,
        "columns": "k: int64",
        "seed": 7,
        "parameters": {"a": [1, 2], "b": 1},
        "torch": version("torch"),
        "numpy": np.__version__,
    }
    metadata = pq.read_schema(path).metadata
    assert set(metadata) == {b"iredinterp"}
    assert metadata[b"iredinterp"].index(b'"a"') < metadata[b"iredinterp"].index(b'"b"')


def test_columns_are_read_in_the_order_asked(tmp_path, seed):
    table, _ = shuffled_table(seed)
    write_table(table, tmp_path / "a.parquet", {})
    assert read_table(tmp_path / "a.parquet", ["matrix", "item"]).column_names == ["matrix", "item"]
    with pytest.raises(TableError, match=r"a\.parquet: no column 'y'; it has task, kappa"):
        read_table(tmp_path / "a.parquet", ["y"])


@pytest.mark.parametrize("failing", ["write_table", "replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.parquet"
    good = bytes_of(pa.table({"k": [1]}), path)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pq if failing == "write_table" else os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(pa.table({"k": [2]}), path, {})
    assert path.read_bytes() == good
    assert only(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize("undefined", [float("nan"), None])
def test_an_undefined_value_without_a_reason_is_refused(tmp_path, undefined):
    path = tmp_path / "a.parquet"
    value = pa.array([1.0, undefined], pa.float64(), from_pandas=False)
    with pytest.raises(TableError, match=r"a\.parquet: 1 rows have neither `value` nor `reason`"):
        write_table(pa.table({"value": value}), path, {})
    with pytest.raises(TableError, match="1 rows"):
        write_table(pa.table({"value": value, "reason": pa.array(["zero", None])}), path, {})
    assert only(tmp_path) == []
    write_table(pa.table({"value": value, "reason": pa.array([None, "no gap"])}), path, {})


@pytest.mark.parametrize("provenance", [{"path": object()}, {"kappa": float("nan")}])
def test_provenance_that_is_not_json_is_refused(tmp_path, provenance):
    with pytest.raises(TableError, match="must be plain JSON"):
        write_table(pa.table({"k": [1]}), tmp_path / "a.parquet", provenance)
    assert only(tmp_path) == []


def test_files_that_are_not_ours_are_refused_with_their_name_and_the_fix(tmp_path):
    text, cut, foreign, future = (
        tmp_path / f"{name}.parquet" for name in ("text", "cut", "foreign", "future")
    )
    text.write_text("k\n1\n")
    cut.write_bytes(bytes_of(pa.table({"k": [1, 2, 3]}), cut)[:-20])
    pq.write_table(pa.table({"k": [1]}), foreign)
    pq.write_table(
        pa.table({"k": [1]}).replace_schema_metadata({"iredinterp": '{"schema_version": 99}'}), future
    )
    for read in (read_table, read_provenance):
        for path in (text, cut):
            with pytest.raises(TableError, match=rf"{path.name}: not a whole Parquet file.*make it again"):
                read(path)
        with pytest.raises(TableError, match=r"foreign\.parquet: no `iredinterp` footer.*write_table"):
            read(foreign)
        with pytest.raises(TableError, match=r"future\.parquet: schema version found 99, expected 1"):
            read(future)
        with pytest.raises(TableError, match=r"absent\.parquet: no such file"):
            read(tmp_path / "absent.parquet")


def test_a_damaged_page_is_reported_and_not_returned(tmp_path, seed):
    path = tmp_path / "a.parquet"
    data = bytearray(bytes_of(pa.table({"x": np.random.default_rng(seed).random(5000)}), path))
    data[4:2000] = b"\0" * 1996
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"a\.parquet: not a whole Parquet file"):
        read_table(path)


@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 3), (5, 1, 1, 2), (0, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.int8, torch.bool])
def test_tensors_come_back_with_shape_dtype_and_values(tmp_path, generator, shape, dtype):
    values = (torch.randn(shape, generator=generator) * 10).to(dtype)
    write_table(pa.table({"x": tensor_array(values)}), tmp_path / "a.parquet", {})
    read = tensor_column(read_table(tmp_path / "a.parquet"), "x")
    assert read.dtype == dtype
    assert torch.equal(read, values)


def test_transposed_and_strided_tensors_are_stored_row_major(generator):
    values = torch.randn(4, 6, 5, generator=generator).transpose(1, 2)[::2, :, ::3]
    array = tensor_array(values)
    assert np.array_equal(array.to_numpy_ndarray(), values.numpy())
    assert array.storage[1].as_py() == values[1].flatten().tolist()


def test_a_contiguous_tensor_becomes_a_column_without_a_copy(generator):
    values = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    assert tensor_array(values).storage.values.buffers()[1].address == values.data_ptr()


def test_slices_and_chunks_of_a_tensor_column_join_into_one_tensor(generator):
    values = torch.randn(7, 2, 2, generator=generator)
    table = pa.table({"x": tensor_array(values), "k": list(range(7))})
    pieces = pa.concat_tables([table.slice(4), table.slice(1, 2)])
    assert torch.equal(tensor_column(pieces, "x"), values[[4, 5, 6, 1, 2]])
    assert tensor_column(pieces, "k").tolist() == [4, 5, 6, 1, 2]
    assert tensor_column(table.slice(0, 0), "x").shape == (0, 2, 2)
    assert tensor_column(table.schema.empty_table(), "x").shape == (0, 2, 2)


def test_a_read_column_may_be_written_to_and_the_table_keeps_its_values():
    table = pa.table({"x": tensor_array(torch.ones(2, 2)), "y": np.full(2, 2.0)})
    for name in table.column_names:
        column = tensor_column(table, name)
        column += 1
        assert tensor_column(table, name).sum() == 4


def test_null_floats_are_read_as_nan():
    table = pa.table({"value": pa.chunked_array([[1.0, None], [2.0]])})
    assert tensor_column(table, "value").isnan().tolist() == [False, True, False]


def test_wrong_columns_are_named_with_the_columns_there_are():
    table = pa.table({"task": ["a"], "k": pa.array([None], pa.int64()), "value": [1.0]})
    with pytest.raises(TableError, match="'y' does not exist; the numeric columns are k, value"):
        tensor_column(table, "y")
    with pytest.raises(TableError, match="'task' is not numeric; the numeric columns are k, value"):
        tensor_column(table, "task")
    with pytest.raises(TableError, match=r"'k' \(int64\) has 1 nulls"):
        tensor_column(table, "k")


@pytest.mark.parametrize("shape", [(), (3,), (3, 0), (3, 2, 0)])
def test_shapes_a_tensor_column_cannot_hold_are_refused(shape):
    with pytest.raises(TableError, match="non-empty shape"):
        tensor_array(torch.zeros(shape))


def test_tidy_agrees_with_a_loop_over_items_metrics_and_positions(generator):
    keys = pa.table({"model": ["a", "b", "a"], "t": [9, 9, 0]})
    spectrum = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    spectrum[1, 2] = torch.nan
    gap = torch.randn(3, generator=generator, dtype=torch.float32)
    metrics = [
        Metric("lambda", spectrum, component="normal", reason="no gap", stderr=spectrum.abs()),
        Metric("gap", gap),
    ]
    rows = tidy(keys, metrics).to_pylist()
    expected = []
    for metric in metrics:
        for i in range(3):
            for j, value in enumerate(metric.values.double().reshape(3, -1)[i].tolist()):
                undefined = value != value
                expected.append(
                    {
                        "model": keys["model"][i].as_py(),
                        "t": keys["t"][i].as_py(),
                        "metric": metric.name,
                        "component": metric.component,
                        "index": j,
                        "value": None if undefined else value,
                        "stderr": None if undefined or metric.stderr is None else abs(value),
                        "reason": metric.reason if undefined else None,
                    }
                )
    assert rows == expected


def test_tidy_has_one_schema_whatever_the_metrics(generator):
    types = {"index": pa.int32(), "value": pa.float64(), "stderr": pa.float64(), "reason": pa.string()}
    full = tidy(pa.table({"k": [1, 2]}), [Metric("m", torch.tensor([1, 2]), stderr=torch.zeros(2))])
    empty = tidy(pa.table({"k": pa.array([], pa.int64())}), [Metric("m", torch.zeros(0, 5))])
    assert full.schema == empty.schema
    assert empty.num_rows == 0
    assert {name: full.schema.field(name).type for name in types} == types


def test_tidy_names_the_metric_that_is_wrong():
    keys = pa.table({"k": [1, 2]})
    with pytest.raises(TableError, match=r"metric 'kappa' is NaN in 1 places; say why"):
        tidy(keys, [Metric("kappa", torch.tensor([1.0, torch.nan]))])
    with pytest.raises(TableError, match=r"metric 'kappa' has shape \(3,\); 2 key rows need"):
        tidy(keys, [Metric("kappa", torch.zeros(3))])
    with pytest.raises(TableError, match=r"metric 'kappa' has stderr of shape \(2, 1\)"):
        tidy(keys, [Metric("kappa", torch.zeros(2), stderr=torch.zeros(2, 1))])
    with pytest.raises(TableError, match="rename the key columns value"):
        tidy(pa.table({"value": [1, 2]}), [Metric("kappa", torch.zeros(2))])
    with pytest.raises(TableError, match="no metrics"):
        tidy(keys, [])


def test_gathered_shards_hold_every_row_once(tmp_path, seed):
    table, _ = shuffled_table(seed)
    paths = [tmp_path / f"{i}.parquet" for i in range(4)]
    for i, path in enumerate(paths):
        write_table(table.slice(50 * i, 50), path, {"shard": i})
    together = gather(paths)
    assert sorted(together["item"].to_pylist()) == list(range(200))
    assert bytes_of(together, tmp_path / "all.parquet") == bytes_of(table, tmp_path / "direct.parquet")


def test_gather_names_the_shard_that_differs(tmp_path):
    paths = [tmp_path / f"{name}.parquet" for name in ("odd", "a", "b")]
    for path, values in zip(paths, ([1.0], [1], [2]), strict=True):
        write_table(pa.table({"t": values}), path, {"shard": path.stem})
    with pytest.raises(TableError, match=r"odd\.parquet: .*found t: double, expected t: int64"):
        gather(paths)
    with pytest.raises(TableError, match="no shards"):
        gather([])


def streamed(rows, cuts):
    """`rows` numbered rows in order, cut into batches."""
    edges = [0, *sorted(cuts), rows]
    for start, stop in pairwise(edges):
        item = np.arange(start, stop)
        matrices = torch.from_numpy(item.astype(float))[:, None, None].expand(-1, 2, 3)
        task = pa.array([f"task{i % 3}" for i in item], pa.string())
        yield pa.table({"item": item, "task": task, "x": item / 7, "matrix": tensor_array(matrices)})


def test_a_stream_comes_back_whole_in_its_order_and_does_not_depend_on_the_batches(tmp_path, seed):
    cuts = np.random.default_rng(seed).choice(np.arange(1, 100), 6, replace=False).tolist()
    files = []
    for name, cut in (("a", cuts), ("b", [50]), ("c", [])):
        files.append(tmp_path / "new" / f"{name}.parquet")
        write_stream(streamed(100, cut), files[-1], {"seed": 7}, row_group=16)
    assert len({file.read_bytes() for file in files}) == 1
    read = read_table(files[0])
    (whole,) = streamed(100, [])
    assert read.equals(whole)
    assert read_provenance(files[0])["seed"] == 7
    with pq.ParquetFile(files[0]) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [16] * 6 + [4]
    encodings = {groups[0].column(index).path_in_schema: groups[0].column(index) for index in range(4)}
    for path in ("x", "matrix.list.element"):
        assert "BYTE_STREAM_SPLIT" in encodings[path].encodings
        assert not encodings[path].has_dictionary_page
    assert {column.compression for column in encodings.values()} == {"ZSTD"}


def test_a_stream_is_taken_as_it_is_written_and_let_go(tmp_path):
    alive, most = [], 0

    def batches():
        nonlocal most
        for _ in range(40):
            values = np.zeros(10)
            alive.append(weakref.ref(values))
            most = max(most, sum(each() is not None for each in alive))
            yield pa.table({"x": pa.array(values)})

    write_stream(batches(), tmp_path / "a.parquet", {}, row_group=20)
    # The first, those of two row groups, and the one being made.
    assert 2 <= most <= 6


def test_row_groups_are_read_in_a_drawn_order_and_each_once(tmp_path, seed):
    path = tmp_path / "a.parquet"
    write_stream(streamed(100, [30]), path, {}, row_group=16)
    groups = [table["item"].to_pylist() for table in read_stream(path)]
    assert [item for group in groups for item in group] == list(range(100))
    drawn = [
        [table["item"].to_pylist() for table in read_stream(path, ["x", "item"], generator)]
        for generator in (torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed))
    ]
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0]) == groups
    assert next(read_stream(path, ["x", "item"])).column_names == ["x", "item"]
    with pytest.raises(TableError, match="no column 'y'; it has item, task"):
        next(read_stream(path, ["y"]))


def test_a_stream_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.parquet"
    good = bytes_of(pa.table({"k": [1]}), path)

    def broken():
        yield from streamed(50, [20])
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_stream(broken(), path, {}, row_group=16)
    with pytest.raises(TableError, match=r"a\.parquet: there is nothing to write"):
        write_stream([], path, {})
    with pytest.raises(TableError, match="a batch has the columns k: double; the first had k: int64"):
        write_stream([pa.table({"k": [1]}), pa.table({"k": [1.0]})], path, {})
    with pytest.raises(TableError, match="1 rows have neither `value` nor `reason`"):
        write_stream([pa.table({"value": [1.0, None]})], path, {})
    with pytest.raises(TableError, match="must be plain JSON"):
        write_stream(streamed(5, []), path, {"path": object()})
    assert path.read_bytes() == good
    assert only(tmp_path) == ["a.parquet"]


def test_tables_are_gathered_without_torch(tmp_path):
    code = (
        "import sys; import pyarrow as pa; from iredinterp.runlog import run_log\n"
        "from iredinterp.tables import gather, read_table, write_table\n"
        "with run_log('log', threads=1):\n"
        "    for value in (2.0, 1.0):\n"
        "        write_table(pa.table({'t': [int(value)], 'value': [value]}), f'{value}.parquet', {})\n"
        "    write_table(gather(['2.0.parquet', '1.0.parquet']), 'all.parquet', {})\n"
        "print(read_table('all.parquet')['t'].to_pylist(), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "[1, 2] False\n", run.stderr
