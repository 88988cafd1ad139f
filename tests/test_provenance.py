"""Provenance: a code digest changes with the code that a script's result depends on, and with no other."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from iredinterp.errors import ConfigError
from iredinterp.provenance import code_digest, code_digests, file_sha256, provenance

PACKAGE = {
    "__init__.py": '''
        """Lazy front door."""
        _PUBLIC = {"sample": "pkg.ired.sampler", "planted": "pkg.truth"}

        def __getattr__(name):
            import importlib
            return getattr(importlib.import_module(_PUBLIC[name]), name)
        ''',
    "errors.py": "class PkgError(Exception):\n    pass\n",
    "truth.py": "def planted():\n    return 1\n",
    "linalg.py": '''
        import numpy as np

        CUT = 1e-9

        def principal_angles(u, v):
            """Angles."""
            return np.arccos(clip(u @ v))

        def clip(x):
            return x.clip(CUT, 1 - CUT)

        def unused(x):
            return x + 1
        ''',
    "ired/__init__.py": "from .sampler import sample\n",
    "ired/sampler.py": "STEPS = 10\n\ndef sample(x):\n    return x * STEPS\n\ndef other(x):\n    return x\n",
    "ired/tasks.py": "def make_problems(n):\n    return n\n\ndef make_matrix(n):\n    return n\n",
    "hessian.py": '''
        """Spectra and their figures in one module."""
        from __future__ import annotations

        import matplotlib.pyplot as plt

        from . import linalg
        from .figures import LABEL, style
        from .linalg import clip as bounded

        def closed(x):
            return linalg.principal_angles(x, x)

        def autograd(x):
            return bounded(x)

        ENGINES = {"closed": closed, "autograd": autograd}

        def spectra(x, engine="closed"):
            """Eigenvalues.

            Args:
                x: points.
            """
            # the engine decides
            return ENGINES[engine](x)

        class Analyzer:
            def fit(self, x):
                return spectra(x)

            def report(self):
                return "hessian.html"

        @style()
        def plot_spectra(ax, x):
            """Draw."""
            ax.plot(x, label=LABEL)
            plt.title("spectra")
        ''',
    "figures.py": """
        from contextlib import contextmanager

        LABEL = "lambda"
        SIZES = {"font.size": 9}

        @contextmanager
        def style():
            yield SIZES
        """,
    "templates/hessian.html": "<p>{% include 'row.html' %}</p>",
    "templates/row.html": "<b>row</b>",
    "templates/other.html": "<i>other</i>",
}


class Project:
    """A small package in a folder, one script that uses it, and edits to both."""

    def __init__(self, folder: Path):
        self.source, self.script = folder / "src", folder / "scripts" / "job.py"
        for name, text in PACKAGE.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.source / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.source / "pkg" / name
        text = path.read_text()
        assert text.count(old) >= 1
        path.write_text(text.replace(old, new))

    def append(self, name: str, text: str) -> None:
        with (self.source / "pkg" / name).open("a") as file:
            file.write("\n" + textwrap.dedent(text))

    def digest(self, script: str) -> dict[str, str]:
        self.script.parent.mkdir(exist_ok=True)
        self.script.write_text(textwrap.dedent(script))
        return code_digest(self.script, self.source)


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


SPECTRA = "from pkg.hessian import spectra\nspectra(1)\n"


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_digest_names_the_script_and_every_module_that_holds_reached_code(project):
    digest = project.digest(SPECTRA)
    assert list(digest) == ["pkg.hessian", "pkg.linalg", "scripts.job"]
    assert all(len(value) == 12 and int(value, 16) >= 0 for value in digest.values())
    assert project.digest(SPECTRA) == digest


def test_comments_docstrings_layout_and_order_of_definitions_do_not_count(project):
    before = project.digest(SPECTRA)
    project.edit("hessian.py", "# the engine decides", "# whichever")
    project.edit("hessian.py", "Eigenvalues.", "Eigenvalues, ascending.")
    project.edit("hessian.py", 'engine="closed"', "\n    engine='closed',\n")
    project.edit("linalg.py", '"""Angles."""', '"""Angles."""\n    "A second bare string."')
    text = (project.source / "pkg/linalg.py").read_text()
    head, angles, clip, unused = text.split("\n\ndef ", maxsplit=1)[0], *text.split("\n\ndef ")[1:]
    project.write("linalg.py", "\n\ndef ".join([head, clip, unused, angles]))
    assert project.digest(SPECTRA) == before
    assert project.digest('"""What this job does."""\n# a comment\n' + SPECTRA) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("hessian.py", "return ENGINES[engine](x)", "return ENGINES[engine](2 * x)"),
        ("hessian.py", 'engine="closed"', 'engine="autograd"'),
        ("hessian.py", '"autograd": autograd', '"slow": autograd'),
        ("hessian.py", "return bounded(x)", "return bounded(-x)"),
        ("hessian.py", "import clip as bounded", "import principal_angles as bounded"),
        ("linalg.py", "np.arccos", "np.arcsin"),
        ("linalg.py", "import numpy as np", "import torch as np"),
        ("linalg.py", "CUT = 1e-9", "CUT = 1e-8"),
    ],
)
def test_an_edit_of_used_code_changes_the_digest_of_its_module_alone(project, name, old, new):
    before = project.digest(SPECTRA)
    project.edit(name, old, new)
    assert changed(before, project.digest(SPECTRA)) == {f"pkg.{name.removesuffix('.py')}"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("hessian.py", 'plt.title("spectra")', 'plt.title("eigenvalues")'),
        ("hessian.py", "import LABEL, style", "import LABEL, SIZES, style"),
        ("hessian.py", "import matplotlib.pyplot as plt", "import matplotlib.pyplot as plt, sys"),
        ("figures.py", "9", "8"),
        ("figures.py", '"lambda"', '"eigenvalue"'),
        ("linalg.py", "x + 1", "x + 2"),
        ("__init__.py", '"pkg.truth"', '"pkg.errors"'),
        ("templates/hessian.html", "<p>", "<div>"),
    ],
)
def test_an_edit_of_figure_code_or_of_anything_else_unused_changes_nothing(project, name, old, new):
    before = project.digest(SPECTRA)
    project.edit(name, old, new)
    project.append("hessian.py", "def brand_new(x):\n    return spectra(x)\n")
    assert project.digest(SPECTRA) == before


@pytest.mark.parametrize(
    "script",
    [
        "from pkg.ired.tasks import make_problems\nmake_problems(1)",
        "from pkg.ired import tasks\ntasks.make_problems(1)",
        "from pkg.ired import tasks as t\nt.make_problems(1).shape",
        "from pkg import ired\nimport pkg.ired.tasks\nired.tasks.make_problems(1)",
        "import pkg.ired.tasks\npkg.ired.tasks.make_problems(1)",
        "import pkg.ired.tasks as t\nf = t.make_problems",
        "def main():\n    from pkg.ired.tasks import make_problems\n    make_problems(1)",
        "def main():\n    import pkg.ired.tasks as t\n    return t.make_problems(1)",
        "try:\n    from pkg.ired import tasks\nexcept ImportError:\n    tasks = None\ntasks.make_problems(1)",
        "if True:\n    from pkg.ired.tasks import make_problems as f\n[f(i) for i in range(3)]",
    ],
)
def test_every_form_of_import_leads_to_the_named_definition_alone(project, script):
    before = project.digest(script)
    project.edit(
        "ired/tasks.py", "def make_matrix(n):\n    return n", "def make_matrix(n):\n    return 2 * n"
    )
    assert project.digest(script) == before
    project.edit(
        "ired/tasks.py", "def make_problems(n):\n    return n", "def make_problems(n):\n    return -n"
    )
    assert changed(before, project.digest(script)) == {"pkg.ired.tasks"}


@pytest.mark.parametrize(
    "script",
    [
        "from pkg.ired import tasks\nvars(tasks)",
        "from pkg.ired.tasks import *\nmake_problems(1)",
        "from pkg.ired import tasks\ngetattr(tasks, 'make_' + 'problems')(1)",
    ],
)
def test_a_module_used_as_a_whole_counts_as_a_whole(project, script):
    before = project.digest(script)
    project.edit(
        "ired/tasks.py", "def make_matrix(n):\n    return n", "def make_matrix(n):\n    return 2 * n"
    )
    assert changed(before, project.digest(script)) == {"pkg.ired.tasks"}


@pytest.mark.parametrize(
    "script",
    [
        "from pkg import sample\nsample(1)",
        "import pkg\npkg.sample(1)",
        "from pkg.ired import sample\nsample(1)",
        "from pkg.ired import *\nsample(1)",
    ],
)
def test_lazy_public_names_and_re_exports_lead_to_where_the_name_is_defined(project, script):
    before = project.digest(script)
    assert "pkg.ired.sampler" in before
    project.edit("ired/sampler.py", "def other(x):\n    return x", "def other(x):\n    return 2 * x")
    project.edit("truth.py", "1", "2")
    assert project.digest(script) == before
    project.edit("ired/sampler.py", "STEPS = 10", "STEPS = 11")
    assert changed(before, project.digest(script)) == {"pkg.ired.sampler"}


def test_a_new_public_name_changes_nothing_but_a_redirected_one_does(project):
    script = "from pkg import sample\nsample(1)"
    before = project.digest(script)
    project.edit("__init__.py", '"sample":', '"clip": "pkg.linalg", "sample":')
    assert project.digest(script) == before
    project.edit("__init__.py", '"pkg.ired.sampler"', '"pkg.ired"')
    assert changed(before, project.digest(script)) == {"pkg", "pkg.ired"}


@pytest.mark.parametrize(
    "script",
    ["from pkg import unheard_of", "from pkg.absent import f\nf(1)", "import pkg\npkg.hidden()"],
)
def test_where_a_name_cannot_be_resolved_the_whole_package_counts(project, script):
    script += "\nunheard_of(1)"
    before = project.digest(script)
    for name in ("truth.py", "ired/tasks.py", "errors.py"):
        module = "pkg." + name.removesuffix(".py").replace("/", ".")
        project.append(name, "def brand_new():\n    return 1\n")
        after = project.digest(script)
        assert module in changed(before, after)
        before = after


def test_a_method_of_a_used_class_counts_and_so_do_bases_decorators_and_defaults(project):
    project.write(
        "parts.py",
        """
        import functools
        def twice(f):
            return functools.wraps(f)(lambda x: 2 * f(x))
        WIDTH = 3
        class Base:
            def forward(self, x):
                return x
        class Model(Base):
            @twice
            def energy(self, x, width=WIDTH):
                return x
        """,
    )
    script = "from pkg.parts import Model\nModel().energy(1)"
    digests = [project.digest(script)]
    edits = [("2 *", "3 *"), ("WIDTH = 3", "WIDTH = 4"), ("x):\n        return x", "x):\n        return -x")]
    for old, new in [*edits, ("width=WIDTH):\n        return x", "width=WIDTH):\n        return 7")]:
        project.edit("parts.py", old, new)
        digests.append(project.digest(script))
    assert len({digest["pkg.parts"] for digest in digests}) == len(digests)


def test_bare_statements_of_every_imported_module_and_its_parents_count(project):
    project.append("figures.py", "import numpy\nnumpy.trapz = numpy.trapezoid\n")
    project.append("ired/__init__.py", "from pkg.truth import planted\nprint(planted())\n")
    for script, changes in [
        (SPECTRA, {"pkg.figures"}),
        ("from pkg.ired.tasks import make_problems\n", {"pkg.truth"}),
    ]:
        before = project.digest(script)
        assert changes < set(before)
        project.edit("figures.py", "numpy.trapezoid", "numpy.sum")
        project.append("truth.py", "def planted():\n    return 5\n")
        assert changed(before, project.digest(script)) == changes
        project.edit("figures.py", "numpy.sum", "numpy.trapezoid")


@pytest.mark.parametrize(
    "statement",
    [
        "for name in ('a',):\n    ENGINES[name] = closed",
        "with open('x') as file:\n    CUT = file.read()",
        "if CUT > 0:\n    CUT = 0",
        "if not TYPE_CHECKING:\n    CUT = 0",
        "try:\n    import fast\nexcept ImportError:\n    fast = None",
        "ENGINES['b'] = closed",
        "assert closed",
    ],
)
def test_any_statement_that_does_more_than_bind_a_name_counts(project, statement):
    project.write("ran.py", "def used():\n    return 1\n")
    before = project.digest("from pkg.ran import used\nused()")
    project.append("ran.py", statement)
    assert changed(before, project.digest("from pkg.ran import used\nused()")) == {"pkg.ran"}


def test_imports_for_type_checkers_alone_do_not_count(project):
    project.write(
        "typed.py",
        """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from .truth import planted
        def used(x: planted):
            return x
        """,
    )
    assert "pkg.truth" not in project.digest("from pkg.typed import used\nused()")


def test_a_local_name_in_a_constant_does_not_lead_there(project):
    project.write("local.py", "SQUARES = [t * t for t in range(9)]\ndef used(t):\n    return t\n")
    before = project.digest("from pkg.local import used\nused(1)")
    project.edit("local.py", "range(9)", "range(8)")
    assert project.digest("from pkg.local import used\nused(1)") == before


REGISTRIES = {
    "function": """
        KNOWN = {}
        def register(name):
            def keep(f):
                KNOWN[name] = f
                return f
            return keep
        """,
    "object": """
        class Registry(dict):
            def __call__(self, name):
                return lambda f: self.setdefault(name, f)
        register = KNOWN = Registry()
        """,
}


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_what_a_decorator_registers_counts_wherever_it_is_defined(project, registry):
    project.write("registry.py", registry)
    project.append("registry.py", "def solve(name):\n    from . import solvers\n    return KNOWN[name]()\n")
    project.write("solvers.py", "from . import registry\n@registry.register('a')\ndef a():\n    return 1\n")
    script = "from pkg.registry import solve\nsolve('a')"
    before = project.digest(script)
    project.edit("solvers.py", "return 1", "return 2")
    assert changed(before, project.digest(script)) == {"pkg.solvers"}


def test_templates_count_where_their_name_is_written_and_those_they_include(project):
    script = "from pkg.hessian import Analyzer\nAnalyzer().report()"
    before = project.digest(script)
    project.edit("templates/other.html", "other", "another")
    assert project.digest(script) == before
    project.edit("templates/row.html", "row", "line")
    included = project.digest(script)
    project.edit("templates/hessian.html", "<p>", "<div>")
    assert changed(before, included) == changed(included, project.digest(script)) == {"pkg.hessian"}


def test_circular_imports_end(project):
    project.write("left.py", "from . import right\ndef f():\n    return right.g()\n")
    project.write("right.py", "from . import left\ndef g():\n    return left.f()\n")
    assert set(project.digest("from pkg.left import f\nf()")) == {"pkg.left", "pkg.right", "scripts.job"}


def test_the_order_of_statements_in_a_script_counts(project):
    assert project.digest("print(1)\nprint(2)\n") != project.digest("print(2)\nprint(1)\n")


def test_neither_a_star_import_nor_the_name_of_a_module_makes_the_whole_package_count(project):
    project.write("front.py", "from .ired.tasks import *\n")
    for use in (
        "from pkg.front import make_matrix as f\nf(1)",
        "from pkg import linalg\nlinalg.__name__",
    ):
        assert "pkg.truth" not in project.digest(use)


def test_a_digest_does_not_depend_on_the_folder_or_the_process(tmp_path):
    here, there = Project(tmp_path / "here"), Project(tmp_path / "there")
    digest = here.digest(SPECTRA)
    assert there.digest(SPECTRA) == digest
    command = "import sys; from iredinterp.provenance import *; print(code_digest(*sys.argv[1:]))"
    for hash_seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", command, here.script, here.source],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        assert printed.decode().strip() == str(digest)


def test_scripts_of_this_project_can_be_digested(tmp_path):
    source = Path(__file__).parents[1] / "src"
    script = tmp_path / "gather.py"
    script.write_text("from iredinterp.tables import gather\ngather([])\n")
    digest = code_digest(script, source)
    assert {"iredinterp.tables", "iredinterp.errors", "scripts.gather"} <= set(digest)
    assert "iredinterp.figures" not in digest


def test_digests_of_all_scripts_are_kept_until_any_file_changes(project, tmp_path):
    digest = project.digest(SPECTRA)
    other = project.script.with_name("other.py")
    other.write_text("from pkg.truth import planted\nplanted()\n")
    cache = tmp_path / "kept/digests.json"

    def digests():
        return code_digests(project.script.parent, project.source, cache)

    both = {project.script.stem: digest, "other": code_digest(other, project.source)}
    assert digests() == both
    kept = json.loads(cache.read_bytes())
    cache.write_text(json.dumps(kept | {"digests": "read from there"}))
    assert digests() == "read from there"
    moved = tmp_path / "moved"
    shutil.copytree(project.source, moved / "src")
    shutil.copytree(project.script.parent, moved / "scripts")
    assert code_digests(moved / "scripts", moved / "src", cache) == "read from there"
    project.edit("truth.py", "return 1", "return 2")
    edited = digests()
    assert edited == both | {"other": code_digest(other, project.source)}
    assert edited["other"] != both["other"]
    assert digests() == edited
    (project.source / "pkg/templates/page.html").write_text("<p>")
    other.write_text("from pkg.truth import planted\nplanted('page.html')\n")
    named = digests()["other"]
    (project.source / "pkg/templates/page.html").write_text("<b>")
    assert digests()["other"] != named
    (project.source / "pkg/truth.py").unlink()
    assert "pkg.truth" not in digests()["other"]


def test_digests_during_which_a_file_changed_are_not_kept(project, tmp_path, monkeypatch):
    project.digest(SPECTRA)
    cache = tmp_path / "digests.json"

    def edited_meanwhile(script, sources):
        project.edit("linalg.py", "CUT = 1e-9", "CUT = 1e-8")
        return code_digest(script, sources)

    with monkeypatch.context() as patch:
        patch.setattr("iredinterp.provenance.code_digest", edited_meanwhile)
        edited = code_digests(project.script.parent, project.source, cache)
    assert not cache.exists()
    project.edit("linalg.py", "CUT = 1e-8", "CUT = 1e-9")
    assert code_digests(project.script.parent, project.source, cache) != edited


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_damaged_or_unwritable_kept_digests_are_as_good_as_none(content, project, tmp_path):
    digest = project.digest(SPECTRA)
    cache = tmp_path / "digests.json"
    cache.write_bytes(content)
    assert code_digests(project.script.parent, project.source, cache) == {project.script.stem: digest}
    cache.unlink()
    cache.mkdir()
    assert code_digests(project.script.parent, project.source, cache) == {project.script.stem: digest}


def test_a_file_that_is_not_python_is_named_with_its_line(project):
    project.edit("linalg.py", "CUT = 1e-9", "CUT = = 1")
    with pytest.raises(ConfigError, match=r"linalg\.py:4: not valid Python"):
        project.digest(SPECTRA)
    with pytest.raises(ConfigError, match=r"absent\.py: no such script"):
        code_digest(project.script.with_name("absent.py"), project.source)


def test_provenance_holds_contents_and_never_paths(tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    record = provenance(
        {"levels": (0, 9)},
        seed=3,
        inputs={"model": model, "shards": [model, model]},
        code={"scripts.job": "abc"},
    )
    assert record == {
        "parameters": {"levels": [0, 9]},
        "seed": 3,
        "inputs": {"model": sha256, "shards": [sha256, sha256]},
        "code": {"scripts.job": "abc"},
    }
    assert str(tmp_path) not in json.dumps(record)
    assert record["inputs"]["model"] == file_sha256(str(model))


def test_parameters_that_are_not_json_are_refused():
    with pytest.raises(ConfigError, match="plain JSON"):
        provenance({"engine": object()})
