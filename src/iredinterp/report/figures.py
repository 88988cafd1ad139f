"""Figures of an experiment, embedded, with captions and links to the files they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from os.path import relpath
from pathlib import Path
from urllib.parse import quote

from iredinterp.config import CONDITIONS
from iredinterp.errors import ConfigError
from iredinterp.report.captions import Caption, read_caption
from iredinterp.report.pages import Page

FORMATS = (".png", ".svg", ".pdf")
# A point is 1/72 inch, a CSS pixel 1/96.
CSS_PIXELS = 96 / 72
POINTS = re.compile(r'<svg [^>]*\bwidth="([\d.]+)pt" height="([\d.]+)pt"')
# Spaces, a seventh of a figure, stand for themselves: against RFC 3986, but every browser understands them.
UNQUOTED = " =/:;,.()!*@$+?[]{}|^~"


@dataclass(frozen=True)
class Figure:
    """One figure of one model.

    Attributes:
        name: of the file.
        title: in words.
        caption: with the model's name put in.
        image: data URI of the SVG, safe within double quotes; empty where there is none.
        size: width and height in CSS pixels.
        files: relative links by format.
    """

    name: str
    title: str
    caption: Caption
    image: str
    size: tuple[int, int]
    files: dict[str, str]

    @property
    def alternative(self) -> str:
        """What is said instead of the image."""
        return f"{self.title}. {self.caption.first}"


@dataclass(frozen=True)
class Subject:
    """A model, a pair of them, or a recipe whose training is followed, with its figures.

    Attributes:
        name: of the model, of both, or of the recipe.
        is_recipe: whether it is a recipe.
        figures: in the order of the page.
    """

    name: str
    is_recipe: bool
    figures: tuple[Figure, ...]

    @property
    def anchor(self) -> str:
        """By which a page links to it."""
        return f"{'recipe' if self.is_recipe else 'model'}-{self.name.replace(' ', '-')}"


def subjects(
    paths: Iterable[str | Path], page: Page, captions: str | Path, root: str | Path
) -> list[Subject]:
    """The figures among an experiment's files, by model and then by recipe.

    Args:
        paths: `…/ANALYSIS/MODEL/[CONDITION/]figures/FIGURE.FORMAT`, with `MODEL/OTHER` of a pair and
            `courses/RECIPE` of a recipe; others are passed over.
        page: the experiment.
        captions: folder that holds `ANALYSIS_FIGURE.rst`.
        root: folder of the report, which links are relative to.

    Raises:
        ConfigError: a caption is missing or faulty, or an SVG is none.
    """
    drawn: dict[tuple, dict[str, Path]] = {}
    for path in map(Path, paths):
        if path.suffix in FORMATS and path.parent.name == "figures":
            drawn.setdefault((_names(path, page), path.stem), {})[path.suffix] = path
    order = list(page.figures)
    known = sorted(drawn, key=lambda key: ("recipe" in dict(key[0]), key[0], _position(key[1], order)))
    return [
        Subject(
            " and ".join(names.values()),
            "recipe" in names,
            tuple(_figure(page, names, key[1], drawn[key], Path(captions), root) for key in keys),
        )
        for names, keys in ((dict(of), list(keys)) for of, keys in groupby(known, key=lambda key: key[0]))
    ]


def _names(path: Path, page: Page) -> tuple[tuple[str, str], ...]:
    """What stands in a figure's path for the wildcards of its rule, but for the condition."""
    parts = path.parent.parent.parts
    if page.analysis not in parts:
        raise ConfigError(f"{path}: not a result of {page.analysis}; give figures of {page.id} alone")
    below = parts[len(parts) - parts[::-1].index(page.analysis) :]
    if below[0] == "courses":
        return (("recipe", below[1]),)
    return tuple(zip(("model", "other"), (name for name in below if name not in CONDITIONS), strict=False))


def _position(name: str, order: list[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _figure(
    page: Page,
    names: Mapping[str, str],
    name: str,
    files: Mapping[str, Path],
    captions: Path,
    root: str | Path,
) -> Figure:
    svg = files[".svg"].read_text("utf-8", "replace") if ".svg" in files else ""
    return Figure(
        name=name,
        title=page.figures.get(name, name.replace("_", " ")),
        caption=read_caption(captions / f"{page.analysis}_{name}.rst", names),
        image=f"data:image/svg+xml,{quote(svg, UNQUOTED)}" if svg else "",
        size=_size(svg, files[".svg"]) if svg else (0, 0),
        files={kind[1:].upper(): relpath(files[kind], root) for kind in FORMATS if kind in files},
    )


def _size(svg: str, path: Path) -> tuple[int, int]:
    if not (points := POINTS.search(svg)):
        raise ConfigError(f"{path}: not an SVG with its size in points; draw the figure again")
    return round(float(points[1]) * CSS_PIXELS), round(float(points[2]) * CSS_PIXELS)
