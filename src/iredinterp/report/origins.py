"""Where the results come from: versions, settings, seeds and code of every table."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from os.path import relpath
from pathlib import Path

import yaml

from iredinterp.tables import read_provenance

PACKAGES = ("iredinterp", "torch", "numpy", "scipy", "pandas", "pyarrow", "matplotlib")
DIGITS = 12


@dataclass(frozen=True)
class Origin:
    """Tables that were made alike.

    Attributes:
        parameters: settings that shaped them, as YAML.
        seed: of their random draws.
        code: digest of all code they depend on.
        made_with: torch and numpy.
        tables: relative links.
    """

    parameters: str
    seed: int | None
    code: str
    made_with: str
    tables: tuple[str, ...]


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def as_yaml(value: Mapping) -> str:
    """A mapping of plain JSON as YAML, every part written out."""
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True, width=100)


def origins(paths: Iterable[str | Path], root: str | Path) -> list[Origin]:
    """What the footers of tables say, tables that were made alike together.

    Args:
        paths: tables.
        root: folder of the report, which links are relative to.

    Raises:
        TableError: a file is no table of ours.
    """
    alike: dict[tuple, list[str]] = {}
    for path in paths:
        footer = read_provenance(path)
        code = hashlib.sha256(json.dumps(footer.get("code", {}), sort_keys=True).encode()).hexdigest()
        made_with = f"torch {footer['torch']}, numpy {footer['numpy']}"
        key = (as_yaml(footer.get("parameters", {})), footer.get("seed"), code[:DIGITS], made_with)
        alike.setdefault(key, []).append(relpath(path, root))
    return [Origin(*key, tuple(tables)) for key, tables in alike.items()]
