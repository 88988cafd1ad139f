"""The house rules: who imports whom, what a rule and a script may hold, pins that agree."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import iredinterp

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/iredinterp"
MODULES = sorted(SOURCE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
RULES = sorted((ROOT / "workflow/rules").glob("*.smk"))

# Which rooms a module may import from, by its path below the package; the longest match counts.
LEAVES = {"errors", "files", "lazy", "names", "ranges"}
MAY_IMPORT = {
    "": {"lazy"},
    "errors": set(),
    "files": set(),
    "lazy": set(),
    "names": set(),
    "ranges": {"errors"},
    "adam": LEAVES,
    "config": LEAVES,
    "cluster": LEAVES | {"cluster"},
    "__main__": {"cli"},
    "cli": LEAVES
    | {"analyses", "cards", "cli", "cluster", "energy", "evidence", "geometry", "ired", "provenance"}
    | {"points", "spectrum", "tables", "truth"},
    "pages": LEAVES,
    "plan": LEAVES,
    "provenance": LEAVES,
    "runlog": LEAVES,
    "tables": LEAVES,
    "figures": LEAVES,
    "linalg": LEAVES,
    "bases": LEAVES,
    "ired": LEAVES | {"ired"},
    "cards": LEAVES | {"ired", "pages", "tables"},
    "energy": LEAVES | {"ired"},
    "spectrum": LEAVES | {"energy", "linalg", "ired"},
    "points": LEAVES | {"energy", "ired", "tables"},
    "minima": LEAVES | {"energy", "ired", "points"},
    "barriers": LEAVES | {"energy", "geometry"},
    "panels": LEAVES | {"figures", "points"},
    "course_keys": LEAVES | {"ired", "points"},
    "geometry": LEAVES | {"bases", "geometry", "linalg"},
    "truth": LEAVES | {"energy", "ired", "tables", "truth"},
    "conditions": LEAVES | {"energy", "ired", "points", "truth"},
    "analyses": LEAVES
    | {"energy", "spectrum", "points", "ired", "linalg", "bases", "geometry", "tables", "figures", "panels"}
    | {"adam", "barriers", "course_keys", "minima"},
    "expected": LEAVES | {"geometry", "ired", "points", "tables", "truth"},
    "scorecard": LEAVES | {"expected", "energy", "ired", "pages", "points", "spectrum", "truth", "evidence"},
    "evidence": LEAVES | {"config", "evidence", "pages", "tables"},
    "leaderboard": LEAVES | {"evidence", "ired", "pages", "points", "truth"},
    "report": LEAVES | {"cards", "config", "evidence", "leaderboard", "pages", "report", "tables"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_import_only_from_the_rooms_they_may(path):
    place = path.relative_to(SOURCE).with_suffix("").parts
    room = place[0] if place[0] != "__init__" else ""
    assert room in MAY_IMPORT, f"{room}: say in MAY_IMPORT what it may import"
    own_analysis = place[1] if room == "analyses" and len(place) > 1 else None
    for name in imported(path):
        top, *rest = name.split(".")
        assert top != "snakemake", f"{path}: the library knows nothing of Snakemake"
        if top != "iredinterp":
            continue
        target = rest[0] if rest else ""
        same_analysis = room == target == "analyses" and rest[1:2] == [own_analysis]
        assert same_analysis or target in MAY_IMPORT[room], f"{path} imports {name}"


def test_no_imports_run_in_a_circle():
    names = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in MODULES}
    graph = {name: set(imported(path)) & names.keys() for name, path in names.items()}
    assert "iredinterp.errors" in graph["iredinterp.tables"]
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_test_files_share_a_name():
    names = [path.name for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert len(names) > 50
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_thin_and_belong_to_a_rule(path):
    text = path.read_text()
    assert len(text.splitlines()) < 30
    tree = ast.parse(text)
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef)
    ]
    assert any(f'"../../scripts/{path.name}"' in rule.read_text() for rule in RULES)
    assert f'code("{path.stem}")' in "".join(rule.read_text() for rule in RULES)


@pytest.mark.parametrize("path", [p for p in RULES if p.stem != "common"], ids=lambda path: path.name)
def test_rule_files_hold_rules_only(path):
    text = path.read_text()
    assert not re.search(r"^\s*(def|class|import|from) |lambda", text, re.MULTILINE)
    for rule in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]:
        name = rule.split(":")[0]
        if "localrule: True" in rule:
            continue
        for directive in (
            "output:",
            "log:",
            "benchmark:",
            "threads:",
            "mem_mb=",
            "runtime=",
            "**code(",
            "message:",
            "conda:",
        ):
            assert directive in rule, f"{name} lacks {directive}"


def test_rules_that_evaluate_a_network_ask_for_a_gpu():
    for path in RULES:
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            assert ('device=config["device"]' in rule) == ("gpu=1" in rule), rule.split(":")[0]


def test_common_is_short():
    assert len((ROOT / "workflow/rules/common.smk").read_text().splitlines()) < 150


def locked():
    lines = (ROOT / "requirements.lock").read_text().split()
    return dict(line.lower().replace("_", "-").split("==") for line in lines)


def test_the_lock_holds_exact_versions_and_no_local_label_or_address():
    for line in (ROOT / "requirements.lock").read_text().split():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    assert locked()["torch"] == "2.13.0"


def test_the_conda_environment_pins_what_the_lock_pins():
    environment = yaml.safe_load((ROOT / "workflow/envs/iredinterp.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    for pin in pip:
        name, version = pin.split("==")
        assert locked()[name.lower()] == version, pin
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["workflow"]]
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in needed}
    assert names <= {pin.split("==")[0] for pin in pip}


def test_importing_the_package_loads_neither_torch_nor_snakemake():
    code = "import iredinterp, sys; print([m for m in ('torch', 'snakemake', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", iredinterp.__all__)
def test_public_names_exist_and_say_what_they_are(name):
    value = getattr(iredinterp, name)
    assert value.__doc__
    assert value.__module__.startswith(iredinterp._PUBLIC[name])


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        iredinterp.nothing  # noqa: B018


def test_no_file_over_500_lines():
    long = [path for path in [*MODULES, *RULES] if len(path.read_text().splitlines()) > 500]
    assert long == []
