"""HTML pages from the package's templates; each is one self-contained file."""

from __future__ import annotations

from pathlib import Path

import jinja2

from iredinterp.files import atomic_file


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
    page = environment.get_template(template).render(**content)
    with atomic_file(path) as file:
        file.write(page.encode())
