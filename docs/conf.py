"""Sphinx reads the Markdown pages where they are, from the project's root: `make docs`."""

project = "iredinterp"
author = copyright = "the iredinterp authors"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    "config/README.md",
    "docs/*.md",
    "docs/*.ipynb",
    "tests/data/README.md",
]
# Not to be walked through in search of these.
exclude_patterns = [".*", "docs/_build", "logs", "results"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
# As they stand: what a colon separates in them is not a type.
napoleon_custom_sections = ["Returns", "Yields", "Source"]
default_role = "py:obj"  # a name in backticks is code, and a link where it is public

smartquotes = False  # "ema" is a value
nb_execution_mode = "off"  # tests/test_tutorial.py runs the notebook
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_extra_path = ["index.html"]


def keep_bars(app, what, name, obj, options, lines):
    """Docstrings are plain text: |λ| is a modulus, no substitution of reStructuredText."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", keep_bars)
