"""`iredinterp tables`: what a Parquet file holds."""

from __future__ import annotations

import json
import math

import click
import yaml


@click.command()
@click.argument("path", type=click.Path())
@click.option(
    "--head", type=click.IntRange(min=0), default=5, show_default=True, help="How many rows to show."
)
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def tables(path, head, as_json) -> None:
    """Columns, provenance and first rows of a table."""
    content = description(path, head)
    if as_json:
        click.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        return
    click.echo(f"{path}: {content['rows']:,} rows\n")
    width = max(map(len, content["columns"]))
    for name, type in content["columns"].items():
        click.echo(f"  {name:<{width}}  {type}")
    click.echo("\nprovenance:")
    told = yaml.safe_dump(content["provenance"], sort_keys=False, allow_unicode=True, width=100)
    click.echo("".join(f"  {line}\n" for line in told.splitlines()))
    for number, row in enumerate(content["head"]):
        click.echo(f"row {number}: " + ", ".join(f"{name} = {shown(value)}" for name, value in row.items()))


def description(path: str, head: int) -> dict:
    """Columns, rows, provenance and first rows of a table, JSON-ready; NaN and infinities are texts.

    Raises:
        TableError: the file is none of ours.
    """
    import pyarrow.parquet as pq

    from iredinterp.tables import read_provenance, read_stream

    provenance = read_provenance(path)
    first = next(read_stream(path), None) if head else None
    with pq.ParquetFile(path) as file:
        return {
            "path": path,
            "rows": file.metadata.num_rows,
            "columns": {field.name: str(field.type) for field in file.schema_arrow},
            "provenance": {key: value for key, value in provenance.items() if key != "columns"},
            "head": [] if first is None else plain(first.slice(0, head).to_pylist()),
        }


def plain(value):
    """Arrays as lists, and numbers that JSON has not as texts."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def shown(value) -> str:
    """A value in a line: numbers to six digits, of tensors the first three entries."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        entries = [shown(entry) for entry in value[:3]]
        return f"[{', '.join(entries)}{', …' if len(value) > 3 else ''}] ({len(value)})"
    return "null" if value is None else str(value)
