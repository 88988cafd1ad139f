"""Docstrings say what goes in, what comes out, in which shapes, what can go wrong, and where formulas are from."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import iredinterp
from iredinterp import errors

SOURCE = Path(__file__).parents[1] / "src/iredinterp"
ERRORS = {name for name, value in vars(errors).items() if inspect.isclass(value)}
ARRAY = re.compile(r"\b(Tensor|ndarray|ArrayLike)\b")
# One argument or result that is nothing but an array: its shape can be said.
SINGLE_ARRAY = re.compile(r"(torch\.)?Tensor( \| None)?|np\.ndarray|ArrayLike")
SIZE = r"[^()\s,]+(?: [+−·] [^()\s,]+)*"
SHAPE = re.compile(rf"\((?:{SIZE}, ?)+(?:{SIZE})?\)|\(\)|\((?:…|\.\.\.)\)|scalar|number")
# Functions of one signature describe it once.
ELSEWHERE = re.compile(
    r"[Aa]rguments(?:, returns| and result)?(?: and (?:errors|source))? (?:are )?as (?:in |for )?`(\w+)`"
)

# The rooms whose functions are used from outside: everything has its section.
ROOMS = [
    "geometry",
    "truth",
    "ired",
    "evidence",
    "linalg.py",
    "spectrum.py",
    "energy.py",
    "points.py",
    "bases.py",
]
# Parts of one analysis, used by it alone: the first paragraph may say all that the sections would.
PARTS = ["analyses"]

# Public names without a formula of anybody's, and why.
WITHOUT_SOURCE = {
    "an interface, or what such a function returns": {
        "Energy",
        "CallableEnergy",
        "FeatureAnalyzer",
        "GrassmannianAnalyzer",
        "HessianAnalyzer",
        "Problems",
        "ProblemSpec",
        "Recipe",
        "SAERecipe",
        "SAETrainer",
        "Schedule",
        "Spectra",
        "Trajectory",
        "setting",
    },
    "files and tables": {
        "load_energy",
        "points_table",
        "problems_table",
        "read_provenance",
        "read_table",
        "write_table",
    },
    "many metrics, each with its source in docs/methods.md": {
        "circuits_tables",
        "landscape_tables",
        "ntk_table",
        "score_table",
    },
    "a construction or a rule of this project": {
        "MLPEnergy",
        "competence",
        "planted",
        "planted_energy",
        "verdict",
    },
}


def functions(rooms):
    """Public module-level functions that take or return arrays, by name."""
    files = [
        path
        for room in rooms
        for path in ([SOURCE / room] if room.endswith(".py") else (SOURCE / room).rglob("*.py"))
    ]
    found = {}
    for path in sorted(files):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and ARRAY.search(signature(node))
            ):
                found[f"{path.relative_to(SOURCE)}:{node.name}"] = node
    return found


def signature(function):
    return " ".join([*annotations(function).values(), returned(function)])


def annotations(function):
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return {one.arg: ast.unparse(one.annotation) if one.annotation else "" for one in arguments}


def returned(function):
    return ast.unparse(function.returns) if function.returns else ""


def raised(function):
    """Our errors that a body raises itself."""
    calls = [
        node.exc
        for node in ast.walk(function)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return {ast.unparse(call.func) for call in calls} & ERRORS


def sections(docstring):
    """Text by heading; what comes before the first one under the empty heading."""
    found, heading = {"": ""}, ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        if line in {"Args:", "Attributes:", "Returns:", "Yields:", "Raises:", "Source:"}:
            heading = line[:-1]
        found[heading] = found.get(heading, "") + line + "\n"
    return found


def entry(text, name):
    """What a section says of an argument, which may share its entry with others."""
    match = re.search(rf"^    (?:\w+, )*\*{{0,2}}{name}(?:, \w+)*: (.*(?:\n        .*)*)", text, re.MULTILINE)
    return match and match[1]


def lacks(function, *, brief=False):
    """What a docstring leaves unsaid; with `brief`, its first paragraph may say it without a heading."""
    said = sections(ast.get_docstring(function))
    opening = said[""].split("\n\n")[0]
    told = brief and bool(SHAPE.search(opening) or ELSEWHERE.search(said[""].replace("\n", " ")))
    missing = []
    if not said[""].strip():
        missing.append("a summary")
    for name, annotation in annotations(function).items():
        text = entry(said.get("Args", ""), name)
        if text is None and not (told and "Args" not in said):
            missing.append(f"argument {name}")
        elif (
            text
            and SINGLE_ARRAY.fullmatch(annotation)
            and not (SHAPE.search(text) or re.search(r"\b(as|likewise)\b", text))
        ):
            missing.append(f"the shape of {name}")
    if returned(function) not in ("", "None"):
        results = said.get("Returns", said.get("Yields"))
        described = told or (brief and not ARRAY.search(returned(function)))  # by a class of its own
        if results is None and not described:
            missing.append("what it returns")
        elif results and SINGLE_ARRAY.fullmatch(returned(function)) and not SHAPE.search(results):
            missing.append("the shape of what it returns")
    if raised(function) - set(re.findall(r"\w+", said.get("Raises", ""))):
        missing.append(f"that it raises {', '.join(sorted(raised(function)))}")
    return missing


WHOLE, PARTIAL = functions(ROOMS), functions(PARTS)


@pytest.mark.parametrize("name", WHOLE)
def test_a_function_of_arrays_says_everything(name):
    assert not lacks(WHOLE[name])


@pytest.mark.parametrize(
    "package", sorted(path.parent.name for path in (SOURCE / "analyses").glob("*/__init__.py"))
)
def test_what_an_analysis_exports_says_everything(package):
    module = import_module(f"iredinterp.analyses.{package}")
    exported = [getattr(module, name) for name in getattr(module, "__all__", [])]
    for value in filter(inspect.isfunction, exported):
        (function,) = ast.parse(inspect.getsource(value)).body
        assert not lacks(function), value.__name__


@pytest.mark.parametrize("name", PARTIAL)
def test_a_part_of_an_analysis_says_shapes_and_errors(name):
    assert not lacks(PARTIAL[name], brief=True)


@pytest.mark.parametrize("name", iredinterp.__all__)
def test_a_public_name_says_everything(name):
    value = getattr(iredinterp, name)
    said = sections(value.__doc__)
    given = [one for one in inspect.signature(value).parameters.values() if not one.name.startswith("_")]
    described = said.get("Args", "") + said.get("Attributes", "")
    if name != "Energy":  # abstract
        assert not [one.name for one in given if entry(described, one.name) is None]
    assert (
        inspect.isclass(value)
        or inspect.signature(value).return_annotation in (None, "None")
        or {"Returns", "Yields"} & set(said)
    )


@pytest.mark.parametrize(
    "name", [name for name in iredinterp.__all__ if inspect.isclass(getattr(iredinterp, name))]
)
def test_every_method_of_a_public_class_is_described(name):
    members = vars(getattr(iredinterp, name)).items()
    methods = {
        key: getattr(value, "__func__", getattr(value, "fget", value))
        for key, value in members
        if key[0] != "_"
    }
    assert not [key for key, value in methods.items() if inspect.isfunction(value) and not value.__doc__]


def test_formulas_have_their_sources():
    exempt = set().union(*WITHOUT_SOURCE.values())
    assert exempt <= set(iredinterp.__all__)
    for name in iredinterp.__all__:
        has = "Source" in sections(getattr(iredinterp, name).__doc__)
        assert has != (name in exempt), name


def test_what_is_left_unsaid_is_noticed():
    (function,) = ast.parse('''
def f(x: Tensor, seed: int) -> Tensor:
    """Words.

    Args:
        x: a tensor.
    """
    raise ConfigError("no")
''').body
    expected = ["the shape of x", "argument seed", "what it returns", "that it raises ConfigError"]
    assert lacks(function) == expected
    (function,) = ast.parse('''
def f(x: Tensor) -> Tensor:
    """Norms, (B, d) → (B,)."""
''').body
    assert lacks(function) == ["argument x", "what it returns"]
    assert lacks(function, brief=True) == []
