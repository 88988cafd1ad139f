"""HTML pages from the package's templates; each is one self-contained file."""

from __future__ import annotations

import re
from math import isnan
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from iredinterp.files import atomic_file

UNDEFINED = "–"
# One letter, with its accents and powers, before one letter: σ_t, ∇²_yE, but not q_sample.
SUBSCRIPT = re.compile(r"((?<![A-Za-z])[A-Za-z\u0370-\u03ff\u1f00-\u1fff\u0304²]|‖)_([A-Za-z0-9*])(?![a-z_])")
CODE = re.compile(r"`([^`]+)`")


def number(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, or a dash where there is none."""
    return UNDEFINED if value is None or isnan(value) else f"{value:.{digits}g}".replace("inf", "∞")


def prose(text: str) -> Markup:
    """Text with its indices set as such, σ_t as σ with the subscript t, and with `this` as code."""
    parts = CODE.split(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else _indexed(part)
        for place, part in enumerate(parts)
    )


def _indexed(text: str) -> Markup:
    return Markup(SUBSCRIPT.sub(r"\1<sub>\2</sub>", str(escape(text))))


def render_page(template: str, path: str | Path, **content) -> None:
    """Fill a template of `iredinterp/templates` and write the page atomically.

    Args:
        template: its file name.
        path: file to write.
        **content: what the template names; all of it, or jinja2.UndefinedError is raised.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("iredinterp"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "prose": prose}
    page = environment.get_template(template).render(**content)
    with atomic_file(path) as file:
        file.write(page.encode())
