"""`iredinterp diff`: two tables, or two folders of them, compared."""

from __future__ import annotations

from pathlib import Path

import click

from iredinterp.errors import TableError


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--rtol", type=click.FloatRange(min=0), default=1e-9, show_default=True, help="Relative.")
@click.option("--atol", type=click.FloatRange(min=0), default=1e-12, show_default=True, help="Absolute.")
@click.option("--keys", help="Columns that say which row is which, with commas between.")
@click.pass_context
def diff(ctx, a, b, rtol, atol, keys) -> None:
    """Compare two tables, or two folders of them.

    Rows are matched by their key columns: all texts, integers and booleans but `reason`, unless --keys names
    others. Numbers x and y are equal if |x − y| ≤ atol + rtol·max(|x|, |y|). Differences of provenance are
    listed, but decide nothing. The exit status is 0 if the tables are equal, and 1 if not.
    """
    pairs, lonely = matched(Path(a), Path(b))
    for path in lonely:
        click.echo(f"{path}: has no counterpart")
    equal = not lonely
    for one, other in pairs:
        lines, same = report(one, other, rtol, atol, keys.split(",") if keys else None)
        equal = equal and same
        click.echo(f"{one} {'=' if same else '≠'} {other}")
        for line in lines:
            click.echo(f"  {line}")
    ctx.exit(0 if equal else 1)


def matched(a: Path, b: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Tables of the same relative path, and those that only one folder has.

    Raises:
        TableError: a file against a folder, or folders without tables.
    """
    if not (a.is_dir() or b.is_dir()):
        return [(a, b)], []
    for path in (a, b):
        if not path.is_dir():
            raise TableError(f"{path}: no folder; compare two tables or two folders")
    names = [{path.relative_to(folder) for path in folder.rglob("*.parquet")} for folder in (a, b)]
    if not any(names):
        raise TableError(f"{a}, {b}: no tables (*.parquet) in them")
    both, first, second = names[0] & names[1], names[0] - names[1], names[1] - names[0]
    lonely = sorted([*(a / name for name in first), *(b / name for name in second)])
    return [(a / name, b / name) for name in sorted(both)], lonely


def report(a: Path, b: Path, rtol: float, atol: float, keys: list[str] | None) -> tuple[list[str], bool]:
    """How two tables differ.

    Args:
        a: a table of ours.
        b: another one.
        rtol: relative tolerance.
        atol: absolute tolerance.
        keys: columns that say which row is which, or None for those that `write_table` sorts by.

    Returns:
        Lines that say it, those of provenance last, and whether they are equal but for the provenance.

    Raises:
        TableError: one of them cannot be read, or lacks a key.
    """
    from iredinterp.cli.comparing import compare_columns, compare_provenance, compare_rows, compare_values
    from iredinterp.tables import read_provenance, read_table

    one, other = read_table(a), read_table(b)
    columns, shared = compare_columns(one, other)
    rows, pairs = compare_rows(one.select(shared), other.select(shared), keys)
    values, same = compare_values(pairs, rtol, atol)
    changed = compare_provenance(read_provenance(a), read_provenance(b))
    told = [*columns, *rows, *values, *(f"provenance: {line}" for line in changed)]
    return told, same and not columns and not rows
