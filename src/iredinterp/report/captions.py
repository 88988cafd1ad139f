"""Captions of figures: reStructuredText with the names of a figure's model put in, as HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
from docutils.core import publish_doctree, publish_from_doctree
from docutils.utils import SystemMessage
from docutils.writers.html5_polyglot import Writer

from iredinterp.errors import ConfigError

# Warnings are errors; a caption may not read files or hold HTML of its own.
SETTINGS = {"halt_level": 2, "report_level": 5, "file_insertion_enabled": False, "raw_enabled": False}


@dataclass(frozen=True)
class Caption:
    """A caption.

    Attributes:
        html: its paragraphs, safe to put into a page.
        first: its first sentence, plain text.
    """

    html: str
    first: str


def read_caption(path: str | Path, wildcards: Mapping[str, str]) -> Caption:
    """Read a caption as Snakemake's report does: what it writes `snakemake.wildcards.NAME` is put in.

    Args:
        path: a file of reStructuredText with Jinja expressions.
        wildcards: names; they are text, whatever characters they hold.

    Raises:
        ConfigError: the file is missing, names an unknown wildcard or is not valid reStructuredText.
    """
    try:
        template = jinja2.Template(Path(path).read_text("utf-8"), undefined=jinja2.StrictUndefined)
        literal = {name: _literally(value) for name, value in wildcards.items()}
        tree = publish_doctree(
            template.render(snakemake={"wildcards": literal}),
            settings_overrides=SETTINGS,
        )
        html = publish_from_doctree(
            tree, writer=_Body(), settings_overrides=SETTINGS | {"output_encoding": "unicode"}
        )
    except OSError as error:
        raise ConfigError(f"{path}: a figure needs a caption; write one in this file") from error
    except (jinja2.TemplateError, SystemMessage) as error:
        raise ConfigError(f"{path}: not a caption ({error}); correct it") from error
    text = " ".join(tree.astext().split())
    return Caption(html, re.match(r".*?(?:[.:](?= )|$)", text)[0])


class _Body(Writer):
    """Writes what is between the tags of the body alone."""

    def apply_template(self) -> str:
        return "".join(self.body)


def _literally(text: str) -> str:
    return re.sub(r"([^\w\s]|_)", r"\\\1", text)
