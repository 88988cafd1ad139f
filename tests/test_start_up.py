"""Jobs load what they use and no more: drawing a table starts in a third of the time that torch takes."""

import subprocess
import sys
from pathlib import Path

import pytest

import iredinterp
from iredinterp.lazy import lazy

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*_figure*.py"))
# The graph of a circuit has the weights of its network, and autoencoders are read as torch holds them.
WITH_TORCH = {"circuits_figures", "sae_figures"}
PACKAGES = sorted({module for module in iredinterp._PUBLIC.values() if module.count(".") == 2})
HEAVY = ("torch", "scipy", "sklearn", "networkx")


def printed(code, *arguments):
    command = [sys.executable, "-c", f"import sys\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_drawing_figures_loads_neither_torch_nor_statistics():
    scripts = [script for script in SCRIPTS if script.stem not in WITH_TORCH]
    assert len(scripts) > 9
    code = f"""
import runpy
for script in sys.argv[1:]:
    runpy.run_path(script)
    print(*(f"{{script}}:{{name}}" for name in {HEAVY} if name in sys.modules))
print(*(name for name in ("iredinterp.panels", "matplotlib.pyplot") if name in sys.modules))
"""
    assert printed(code, *scripts) == ["iredinterp.panels", "matplotlib.pyplot"]


def test_collecting_gradients_loads_no_statistics():
    code = f"""
import runpy
runpy.run_path(sys.argv[1])
print(*(name for name in {HEAVY} if name in sys.modules))
"""
    assert printed(code, SCRIPTS[0].with_name("sae_field.py")) == ["torch"]


def test_an_analysis_is_loaded_once_one_of_its_names_is_used():
    analyses = [name for name in PACKAGES if name.startswith("iredinterp.analyses.")]
    assert len(analyses) > 5
    code = """
from importlib import import_module
packages = [import_module(name) for name in sys.argv[1:]]
print("torch" in sys.modules)
for package in packages:
    print(*(getattr(package, name).__module__ == package._PUBLIC[name] for name in package.__all__))
"""
    torch_before, *named = printed(code, *analyses)
    assert torch_before == "False"
    assert set(named) == {"True"}


def test_lazy_names_are_those_of_their_modules_and_the_only_ones(monkeypatch):
    package = type(sys)("package")
    monkeypatch.setitem(sys.modules, "package", package)
    package.__getattr__, package.__dir__, package.__all__ = lazy("package", {"sqrt": "math", "pi": "cmath"})
    assert package.__all__ == ["pi", "sqrt"]
    assert "sqrt" not in vars(package)
    assert package.sqrt(9) == 3
    assert {"pi", "sqrt"} <= set(dir(package))
    assert package.sqrt is vars(package)["sqrt"]
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'cosine'"):
        package.cosine  # noqa: B018
