"""What the report says of each experiment beside its results, read from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from iredinterp.errors import ConfigError

ID = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Quantity:
    """A row of the table of numbers, or several: one per level.

    Attributes:
        metric: in the analysis' metric tables.
        at: kind of point.
        meaning: what it is, in words and with its unit.
        component: of the metric; empty for the whole.
        by: column whose values get a row each.
        where: further columns that must have these values.
    """

    metric: str
    at: str
    meaning: str
    component: str = ""
    by: str = "t"
    where: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """An experiment.

    Attributes:
        id: of the page, by which its figures and tables are named.
        title: of the page.
        question: what is asked.
        analysis: folder of its results, and first part of the names of its captions.
        experiment: name under which hypotheses are registered for it; empty if none are.
        figures: titles by name, in the order shown.
        numbers: what is tabulated.
    """

    id: str
    title: str
    question: str
    analysis: str
    figures: Mapping[str, str]
    numbers: tuple[Quantity, ...]
    experiment: str = ""


def read_pages(path: str | Path) -> list[Page]:
    """Read the pages of a report, in its order.

    Args:
        path: YAML list of mappings with the keys of `Page`, `numbers` with those of `Quantity`.

    Raises:
        ConfigError: names the file, the page and the key that is missing, unknown or of another kind.
    """
    try:
        entries = yaml.safe_load(Path(path).read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}); give a list of pages") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: found {type(entries).__name__}; give a list of pages")
    pages = [_page(entry, f"{path}: page {number}") for number, entry in enumerate(entries, start=1)]
    if twice := {page.id for page in pages if [other.id for other in pages].count(page.id) > 1}:
        raise ConfigError(f"{path}: several pages have the id {min(twice)!r}; give each its own")
    return pages


def _page(entry: object, where: str) -> Page:
    page = _made(Page, entry, where)
    if not ID.fullmatch(str(page.id)):
        raise ConfigError(f"{where}.id: found {page.id!r}; use small letters, digits and _")
    numbers = [_made(Quantity, row, f"{where} ({page.id}): numbers") for row in page.numbers or ()]
    return replace(page, figures=page.figures or {}, numbers=tuple(numbers))


def _made(kind: type, entry: object, where: str):
    try:
        return kind(**entry)
    except TypeError as error:
        known = ", ".join(kind.__dataclass_fields__)
        raise ConfigError(f"{where}: {error}; the keys are {known}") from error
