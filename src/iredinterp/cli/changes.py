"""What changed among the params of jobs, from the reasons that a dry run of Snakemake gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

# Snakemake names no param and quotes only values that differ, those of one job in one line.
REASON = re.compile(
    r"Params have changed since last execution: .*?before: (.*) now: (.*?) *(?:; Software .*)?$"
)
DIGEST = re.compile(r"[0-9a-f]{12}")
MISSING = object()


def changed_params(dry_run: str) -> list[str]:
    """Every change once, sorted.

    Args:
        dry_run: what `snakemake --dry-run` printed.

    Returns:
        `code of MODULE`; `KEY: OLD → NEW` with dots between nested keys; `OLD → NEW` of a param without keys.
    """
    pairs = {found.group(1, 2) for line in dry_run.splitlines() if (found := REASON.search(line))}
    return sorted({change for before, now in pairs for change in _changes(_values(before), _values(now))})


def _values(quoted: str) -> list:
    try:
        return ast.literal_eval(f"[{quoted}]")
    except (ValueError, SyntaxError):
        return []


def _changes(before: Sequence, now: Sequence) -> Iterator[str]:
    mappings = [value for value in now if isinstance(value, Mapping)]
    for old in before:
        if isinstance(old, Mapping) and mappings:
            yield from _within(old, max(mappings, key=lambda new: len(new.keys() & old.keys())))
    plain = [[repr(value) for value in side if not isinstance(value, Mapping)] for side in (before, now)]
    if any(plain):
        yield " → ".join(", ".join(sorted(side)) or "nothing" for side in plain)


def _within(old: Mapping, new: Mapping, above: str = "") -> Iterator[str]:
    for key in old.keys() | new.keys():
        was, becomes = old.get(key, MISSING), new.get(key, MISSING)
        if was == becomes:
            continue
        if isinstance(was, Mapping) and isinstance(becomes, Mapping):
            yield from _within(was, becomes, f"{above}{key}.")
        elif _is_digest(was) or _is_digest(becomes):
            yield f"code of {key}"
        else:
            yield f"{above}{key}: {_said(was)} → {_said(becomes)}"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _said(value: object) -> str:
    return "nothing" if value is MISSING else repr(value)
