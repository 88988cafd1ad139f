"""The one Parquet writer and reader.

An artifact is sorted, compressed with zstd and carries its provenance in the footer key `iredinterp`. Nothing
in it depends on the clock, the host or the folder, so equal inputs give equal bytes on one pyarrow version.

torch is imported where it is needed only: that takes two seconds, longer than gathering most tables.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iredinterp.errors import TableError
from iredinterp.files import atomic_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCHEMA_VERSION = 1
FOOTER_KEY = b"iredinterp"
# Small enough to mix many of them in memory, large enough to read fast.
ROW_GROUP = 16_384


def write_table(table: pa.Table, path: str | Path, provenance: Mapping) -> None:
    """Write a table atomically, rows sorted by its key columns, provenance in the footer.

    Key columns are all string, dictionary, integer and boolean columns, in column order; float and tensor
    columns are not. Dictionary columns are written as their values (Parquet encodes repeats by itself), so
    shards agree in schema and bytes whatever dictionary each of them happened to build.

    Args:
        table: a tensor table or a metric table.
        path: destination of the Parquet file.
        provenance: JSON-ready mapping, usually from `iredinterp.provenance.provenance`.

    Raises:
        TableError: a row whose `value` is undefined gives no `reason`, or the provenance is not JSON.
    """
    path = Path(path)
    table = table.cast(pa.schema([_plain(field) for field in table.schema]))
    _reject_silent_gaps(table, path)
    footer = {FOOTER_KEY: _footer(provenance, table.schema, path)}
    table = _sorted(table).replace_schema_metadata(footer)
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def write_stream(
    batches: Iterable[pa.Table], path: str | Path, provenance: Mapping, row_group: int = ROW_GROUP
) -> None:
    """Write batches one by one, in their order, holding some two row groups at a time.

    Atomic and with provenance, as `write_table`, but not sorted. Floats are byte-split, which is what makes
    zstd shrink random numbers. The file does not depend on where the rows were cut into batches.

    Args:
        batches: tables of one schema, at least one.
        path: destination of the Parquet file.
        provenance: as for `write_table`.
        row_group: rows that a reader gets at a time.

    Raises:
        TableError: no batch, one whose columns differ from the first one's, a row whose `value` is undefined
            without a `reason`, or a provenance that is not JSON.
    """
    path, batches = Path(path), iter(batches)
    first = next(batches, None)
    if first is None:
        raise TableError(f"{path}: there is nothing to write")
    schema = pa.schema([_plain(field) for field in first.schema])
    footer = {FOOTER_KEY: _footer(provenance, schema, path)}
    floats = [_leaf(field) for field in schema if _is_float(field.type)]
    others = [field.name for field in schema if not _is_float(field.type)]
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(
            file,
            schema.with_metadata(footer),
            compression="zstd",
            use_dictionary=others,
            use_byte_stream_split=floats,
            write_page_checksum=True,
        ) as writer,
    ):
        for group in _regrouped(chain([first], batches), schema, row_group, path):
            _reject_silent_gaps(group, path)
            writer.write_table(group, row_group_size=row_group)


def read_table(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table that `write_table` wrote.

    Args:
        path: a Parquet file.
        columns: names to read, in this order; all by default.

    Returns:
        Its rows, sorted by the key columns; tensor columns keep their shape.

    Raises:
        TableError: no such file, not Parquet, damaged, not ours, another schema version, or no such column.
    """
    with _opened(path) as file:
        _check_columns(file, columns, path)
        table = file.read(columns=columns)
    if columns is None:
        _reject_silent_gaps(table, Path(path))
    return table.select(columns) if columns is not None else table


def read_stream(
    path: str | Path, columns: list[str] | None = None, generator: torch.Generator | None = None
) -> Iterator[pa.Table]:
    """Read a table one row group at a time.

    Args:
        path: a Parquet file.
        columns: names to read, in this order; all by default.
        generator: draws the order of the row groups; without it they come as written.

    Raises:
        TableError: as `read_table`.
    """
    with _opened(path) as file:
        _check_columns(file, columns, path)
        count = file.num_row_groups
        for group in _order(count, generator):
            table = file.read_row_group(group, columns=columns)
            if columns is None:
                _reject_silent_gaps(table, Path(path))
            yield table.select(columns) if columns is not None else table


def read_provenance(path: str | Path) -> dict:
    """The footer of a table: its provenance, `schema_version`, and the torch and numpy that made it.

    Args:
        path: a Parquet file that `write_table` wrote.

    Returns:
        By name, what `write_table` was given and added.

    Raises:
        TableError: as `read_table`.
    """
    with _opened(path) as file:
        return json.loads(file.metadata.metadata[FOOTER_KEY])


def gather(paths: Iterable[str | Path]) -> pa.Table:
    """Concatenate shard files.

    Raises:
        TableError: no shards, or one whose columns differ from those of most others.
    """
    shards = {str(path): read_table(path).replace_schema_metadata(None) for path in paths}
    if not shards:
        raise TableError("there are no shards to gather")
    expected, _ = Counter(shard.schema for shard in shards.values()).most_common(1)[0]
    for path, shard in shards.items():
        if shard.schema != expected:
            raise TableError(
                f"{path}: its columns differ from the other shards'; found {_columns(shard.schema)}, "
                f"expected {_columns(expected)}. Delete this shard and make it again."
            )
    return pa.concat_tables(shards.values())


def tensor_array(values: Tensor | np.ndarray) -> pa.FixedShapeTensorArray:
    """A column of N equally shaped tensors, without a copy where `values` is contiguous and on the CPU.

    Args:
        values: (N, *shape), at least one trailing axis and none of size zero; N may be zero.

    Raises:
        TableError: a shape that such a column cannot hold.
    """
    array = values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
    shape = array.shape[1:]
    if not shape or 0 in shape:
        raise TableError(f"a tensor column holds (N, *shape) with a non-empty shape; found {array.shape}")
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, math.prod(shape))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, shape), storage)


def tensor_column(table: pa.Table, name: str) -> Tensor:
    """A tensor or numeric column as a torch tensor of its own memory.

    Args:
        table: any table.
        name: one of its tensor, numeric or boolean columns.

    Returns:
        (N, *shape) for a tensor column, (N,) for a plain one, where null floats become NaN.

    Raises:
        TableError: no such column, one that is not numeric, or nulls where NaN cannot stand for them.
    """
    numeric = [field.name for field in table.schema if _is_numeric(field.type)]
    if name not in numeric:
        problem = "is not numeric" if name in table.column_names else "does not exist"
        raise TableError(f"column {name!r} {problem}; the numeric columns are {', '.join(numeric) or 'none'}")
    column = table[name].combine_chunks()
    if column.null_count and not pa.types.is_floating(column.type):
        raise TableError(f"column {name!r} ({column.type}) has {column.null_count} nulls; drop those rows")
    shape = column.type.shape if isinstance(column, pa.ExtensionArray) else []
    flat = column.storage.flatten() if shape else column
    if shape and flat.null_count:
        raise TableError(f"column {name!r} has {flat.null_count} nulls inside its tensors; drop those rows")
    array = flat.to_numpy(zero_copy_only=False, writable=True)
    import torch

    return torch.from_numpy(array.reshape(len(column), *shape))


@dataclass(frozen=True)
class Metric:
    """One named quantity of N items.

    Attributes:
        name: what it is, with its unit if it has one.
        values: (N,), or (N, k) where the second axis is the rank or position; NaN where undefined.
        component: which part of the model or spectrum it speaks of; empty for the whole.
        reason: why it is undefined wherever it is NaN.
        stderr: standard error, shaped as `values`; None where it has none.
    """

    name: str
    values: Tensor
    component: str = ""
    reason: str = ""
    stderr: Tensor | None = None


def tidy(keys: pa.Table, metrics: Iterable[Metric]) -> pa.Table:
    """The long table: one scalar per row.

    Args:
        keys: N rows that say which item each entry of a metric belongs to.
        metrics: quantities of these N items.

    Returns:
        Columns keys…, `metric`, `component`, `index` (int32, position on the second axis, else 0), `value`
        (float64, null where undefined), `stderr` (float64, nullable), `reason` (null where `value` is not).

    Raises:
        TableError: a metric of another shape, NaN without a reason, or a key column with a reserved name.
    """
    metrics = list(metrics)
    if reserved := {"metric", "component", "index", "value", "stderr", "reason"} & set(keys.column_names):
        raise TableError(f"rename the key columns {', '.join(sorted(reserved))}: tidy adds these names")
    if not metrics:
        raise TableError("there are no metrics to tidy")
    for metric in metrics:
        _check_metric(metric, keys.num_rows)

    widths = [metric.values.shape[1] if metric.values.ndim == 2 else 1 for metric in metrics]
    which = np.repeat(np.arange(len(metrics)), [keys.num_rows * width for width in widths])
    item = np.concatenate([np.repeat(np.arange(keys.num_rows), width) for width in widths])
    index = np.concatenate([np.tile(np.arange(width, dtype=np.int32), keys.num_rows) for width in widths])
    value = np.concatenate([_flat(metric.values) for metric in metrics])
    stderr = np.concatenate([_flat(_stderr(metric)) for metric in metrics])
    columns = {
        "metric": pa.array([metric.name for metric in metrics], pa.string()).take(pa.array(which)),
        "component": pa.array([metric.component for metric in metrics], pa.string()).take(pa.array(which)),
        "index": pa.array(index),
        "value": pa.array(value, from_pandas=True),
        "stderr": pa.array(stderr, from_pandas=True),
        "reason": pa.array([metric.reason for metric in metrics], pa.string()).take(
            pa.array(which, mask=~np.isnan(value))
        ),
    }
    table = keys.take(pa.array(item)).replace_schema_metadata(None)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _check_metric(metric: Metric, count: int) -> None:
    shape = tuple(metric.values.shape)
    name = f"metric {metric.name!r}"
    if len(shape) not in (1, 2) or shape[0] != count:
        raise TableError(f"{name} has shape {shape}; {count} key rows need ({count},) or ({count}, k)")
    if metric.stderr is not None and tuple(metric.stderr.shape) != shape:
        raise TableError(f"{name} has stderr of shape {tuple(metric.stderr.shape)}, but values of {shape}")
    if not metric.reason and (undefined := int(metric.values.isnan().sum())):
        raise TableError(f"{name} is NaN in {undefined} places; say why in Metric(reason=…)")


def _order(count: int, generator: torch.Generator | None) -> Iterable[int]:
    if generator is None:
        return range(count)
    import torch

    return torch.randperm(count, generator=generator).tolist()


def _stderr(metric: Metric) -> Tensor:
    if metric.stderr is None:
        return metric.values.double().new_full(metric.values.shape, math.nan)
    return metric.stderr


def _flat(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().reshape(-1).numpy()


def _regrouped(batches: Iterable[pa.Table], schema: pa.Schema, rows: int, path: Path) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last one may be shorter."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        found = pa.schema([_plain(field) for field in batch.schema])
        if found != schema:
            raise TableError(
                f"{path}: a batch has the columns {_columns(found)}; the first had {_columns(schema)}"
            )
        held.append(batch.cast(schema).replace_schema_metadata(None))
        count += len(batch)
        if count >= rows:
            table = pa.concat_tables(held)
            whole = count - count % rows
            for start in range(0, whole, rows):
                yield table.slice(start, rows).combine_chunks()
            held, count = [table.slice(whole)], count - whole
    if count:
        yield pa.concat_tables(held).combine_chunks()


def _is_float(type: pa.DataType) -> bool:
    return pa.types.is_floating(type.value_type if isinstance(type, pa.FixedShapeTensorType) else type)


def _leaf(field: pa.Field) -> str:
    """The name that Parquet gives the numbers of a column."""
    return f"{field.name}.list.element" if isinstance(field.type, pa.FixedShapeTensorType) else field.name


def _check_columns(file: pq.ParquetFile, columns: list[str] | None, path: str | Path) -> None:
    available = file.schema_arrow.names
    if repeated := [name for name, count in Counter(available).items() if count > 1]:
        raise TableError(f"{path}: several columns are named {repeated[0]!r}; make the file again")
    for name in columns or ():
        if name not in available:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(available)}")


def _plain(field: pa.Field) -> pa.Field:
    is_dictionary = pa.types.is_dictionary(field.type)
    return pa.field(field.name, field.type.value_type if is_dictionary else field.type, field.nullable)


def _is_key(type: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(is_kind(type) for is_kind in kinds)


def _is_numeric(type: pa.DataType) -> bool:
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return isinstance(type, pa.FixedShapeTensorType) or any(is_kind(type) for is_kind in kinds)


def _sorted(table: pa.Table) -> pa.Table:
    keys = [(field.name, "ascending") for field in table.schema if _is_key(field.type)]
    return table.take(pc.sort_indices(table, sort_keys=keys)) if keys else table


def _reject_silent_gaps(table: pa.Table, path: Path) -> None:
    if "value" not in table.column_names or not pa.types.is_floating(table["value"].type):
        return
    undefined = pc.is_null(table["value"], nan_is_null=True)
    if "reason" in table.column_names:
        undefined = pc.and_(undefined, pc.is_null(table["reason"]))
    if silent := pc.sum(undefined).as_py():
        raise TableError(f"{path}: {silent} rows have neither `value` nor `reason`; say why it is undefined")


def _footer(provenance: Mapping, schema: pa.Schema, path: Path) -> bytes:
    ours = {"schema_version": SCHEMA_VERSION, "columns": _columns(schema)}
    versions = {name: version(name) for name in ("torch", "numpy")}
    try:
        return json.dumps({**provenance, **ours, **versions}, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TableError(f"{path}: the provenance must be plain JSON: {error}") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            footer = (file.metadata.metadata or {}).get(FOOTER_KEY)
            if footer is None:
                raise TableError(f"{path}: no `iredinterp` footer; read files that write_table made")
            provenance = json.loads(footer)
            found = provenance.get("schema_version") if isinstance(provenance, dict) else None
            if found != SCHEMA_VERSION:
                raise TableError(
                    f"{path}: schema version found {found}, expected {SCHEMA_VERSION}; "
                    "delete the file and make it again with this version of iredinterp"
                )
            columns = _columns(file.schema_arrow)
            if provenance.get("columns", columns) != columns:
                raise TableError(
                    f"{path}: edited since it was written: found the columns {columns}, "
                    f"expected {provenance['columns']}; delete the file and make it again"
                )
            yield file
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file; run the rule that makes it") from error
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise TableError(
            f"{path}: not a whole Parquet file, perhaps cut short; delete it and make it again ({error})"
        ) from error


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
