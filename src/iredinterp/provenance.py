"""Where a result comes from: its parameters, seed, input contents, and the code that it depends on."""

import ast
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

from iredinterp.errors import ConfigError
from iredinterp.files import atomic_file

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Import = ast.Import | ast.ImportFrom
Assignment = ast.Assign | ast.AnnAssign | ast.AugAssign
Dotted = tuple[str, ...]

FILLERS = {"add", "append", "extend", "insert", "register", "setdefault", "update"}


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a file") from error


def _sha256s(paths: str | Path | Sequence[str | Path]) -> str | list[str]:
    return file_sha256(paths) if isinstance(paths, str | Path) else [file_sha256(path) for path in paths]


def provenance(
    parameters: Mapping,
    seed: int | None = None,
    inputs: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
    code: Mapping[str, str] | None = None,
) -> dict:
    """What an artifact says about its origin; content only, so that no folder or machine shows.

    Args:
        parameters: every setting that shaped the result, JSON-ready.
        seed: of the random draws, if there were any.
        inputs: name → path or paths; the name and the SHA-256 of each content are kept.
        code: as `code_digest` returns it.

    Raises:
        ConfigError: parameters that JSON cannot hold.
    """
    record = {
        "parameters": dict(parameters),
        "seed": seed,
        "inputs": {name: _sha256s(paths) for name, paths in (inputs or {}).items()},
        "code": dict(code or {}),
    }
    try:
        return json.loads(json.dumps(record, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"parameters must be plain JSON to be kept with a result: {error}") from error


def code_digest(script: str | Path, sources: "str | Path | Sources") -> dict[str, str]:
    """Digest exactly the code that a script's result depends on.

    The unit is the top-level definition. From the script on, every name that a definition mentions is
    followed to the definition it stands for: through imports of any form and place, re-exports, and lazy
    names that a package lists as `_PUBLIC = {name: module}`. In every module that gets imported on the way,
    statements that do more than bind a name count too, and so does what a decorator of ours registers. A
    template counts where a definition names it. Comments, docstrings, layout and order of definitions do not.

    A local variable is taken for the definition of the same name, and where a name cannot be resolved its
    whole package counts: the digest may change too often, not too rarely. What no name leads to, such as an
    import of a computed string, stays out of sight.

    Args:
        script: the Python file to start from.
        sources: folder that holds the packages to follow; what is imported from elsewhere is left alone. As
            `Sources` its files are read once for many scripts.

    Returns:
        {dotted module: 12 hexadecimal digits for the definitions reached in it}, sorted, the script itself as
        "scripts.NAME".

    Raises:
        ConfigError: the script is missing, or a file is not valid Python.
    """
    if not isinstance(sources, Sources):
        sources = Sources(sources)
    return _Closure(Path(script), sources).digests()


def code_digests(scripts: str | Path, root: str | Path, cache: str | Path) -> dict[str, dict[str, str]]:
    """`code_digest` of every script in a folder, computed only when a file or the Python has changed since.

    Args:
        scripts: folder of the Python files to start from.
        root: folder that holds the packages to follow, and their templates.
        cache: file to keep the digests in, with a hash of all that they were made from; without a place for
            it, or damaged, they are computed each time.

    Returns:
        {script without .py: digests}.

    Raises:
        ConfigError: a file is not valid Python.
    """
    starts = sorted(Path(scripts).glob("*.py"))
    key = _state(starts, Path(root))
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(Path(cache).read_bytes())
        if kept["key"] == key:
            return kept["digests"]
    sources = Sources(root)
    digests = {script.stem: code_digest(script, sources) for script in starts}
    # What was edited in the meantime may be in the digests and not in the key.
    if key == _state(starts, Path(root)):
        with suppress(OSError), atomic_file(cache) as file:
            file.write(json.dumps({"key": key, "digests": digests}).encode())
    return digests


def _state(scripts: Sequence[Path], root: Path) -> str:
    """Hash of the Python, the scripts and all that lies below a folder."""
    below = sorted(path for path in root.rglob("*.*") if path.suffix != ".pyc" and path.is_file())
    files = [(path.name, path) for path in scripts]
    files += [(str(path.relative_to(root)), path) for path in below]
    contents = [[name, file_sha256(path)] for name, path in files]
    return hashlib.sha256(json.dumps([sys.version, contents]).encode()).hexdigest()


class Sources:
    """The packages and templates below a folder as they are when they are first looked at.

    Args:
        root: the folder.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.templates = {p.name: p.read_text("utf-8", "replace") for p in self.root.glob("*/templates/*.*")}
        self._modules: dict[str, _Module | None] = {}

    def module(self, name: str) -> "_Module | None":
        """A module by its dotted name, or none if it is not ours.

        Raises:
            ConfigError: it is not valid Python.
        """
        if name not in self._modules:
            base = self.root.joinpath(*name.split("."))
            candidates = {base / "__init__.py": name, base.with_suffix(".py"): name.rpartition(".")[0]}
            found = ((path, package) for path, package in candidates.items() if path.is_file())
            path, package = next(found, (None, ""))
            self._modules[name] = _parse(path, path.read_bytes(), package) if path else None
        return self._modules[name]


class _Imported(NamedTuple):
    """A name that an import binds to `attributes` of `module`, and the modules that the import runs."""

    bound: str
    module: str
    attributes: Dotted
    runs: Dotted


class _Statement:
    """A top-level statement; what it holds is read off on first use, for most are never reached."""

    def __init__(self, node: ast.stmt, package: str):
        self.node = node
        self.package = package
        self.is_import = isinstance(node, Import)

    @cached_property
    def dump(self) -> str:
        return ast.dump(self.node)

    @cached_property
    def contents(self) -> tuple[set[Dotted], list[_Imported], set[str]]:
        """Names with the attributes written behind them, imports, and strings, at any depth."""
        names, imports, strings = set(), [], set()
        pending: list[ast.AST] = [self.node]
        while pending:
            node, attributes = pending.pop(), []
            while isinstance(node, ast.Attribute):
                attributes.append(node.attr)
                node = node.value
            if isinstance(node, Import):
                imports += _imported(node, self.package)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
            elif not isinstance(node, ast.Name):
                pending += ast.iter_child_nodes(node)
            elif isinstance(node.ctx, ast.Load):
                names.add((node.id, *reversed(attributes)))
        return names, imports, strings

    @cached_property
    def fills(self) -> set[str]:
        """Names of the containers that the statement fills."""
        nodes = [n for n in ast.walk(self.node) if isinstance(n, ast.Subscript | ast.Attribute)]
        filled = [n.value for n in nodes if isinstance(n.ctx, ast.Store) or getattr(n, "attr", "") in FILLERS]
        return {node.id for node in filled if isinstance(node, ast.Name)}


class _Module:
    """A parsed file: the statements that bind each top-level name, and those that do more than bind."""

    def __init__(self, tree: ast.Module, package: str, is_script: bool):
        self.definitions: dict[str, list[_Statement]] = {}
        self.effects: list[_Statement] = []
        self.runs: list[str] = []
        self.decorated: list[tuple[str, set[str]]] = []
        for node in tree.body:
            if _is_for_type_checkers(node):
                continue
            if is_script or not _only_binds(node):
                self.effects.append(_Statement(node, package))
            for name, binding in _bindings(node):
                statement = self.bind(name, binding, package)
                if statement.is_import:
                    self.runs += [run for imported in statement.contents[1] for run in imported.runs]
                elif decorators := getattr(binding, "decorator_list", []):
                    self.decorated.append((name, {part for d in decorators for part in _callee(d)}))
        for name, module in _lazy_names(self.definitions.get("_PUBLIC", [])):
            self.bind(name, ast.ImportFrom(module, [ast.alias(name)], 0), package)

    def bind(self, name: str, node: ast.stmt, package: str) -> _Statement:
        statement = _Statement(node, package)
        self.definitions.setdefault(name, []).append(statement)
        return statement


class _Closure:
    """Everything that running one script may execute."""

    def __init__(self, script: Path, sources: Sources):
        if not script.is_file():
            raise ConfigError(f"{script}: no such script")
        self.sources = sources
        self.name = f"scripts.{script.stem}"
        self.script = _parse(script, script.read_bytes(), "", is_script=True)
        self.ran: set[str] = set()
        self.reached: set[tuple[str, Dotted]] = set()
        self.pending: list[tuple[str, _Statement, set[Dotted]]] = []
        self.lines: dict[str, set[str]] = defaultdict(set)

    def digests(self) -> dict[str, str]:
        self.run(self.name)
        while self.pending:
            self.visit(*self.pending.pop())
        texts = {name: "\n".join(sorted(lines)) for name, lines in sorted(self.lines.items())}
        return {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts.items()}

    def run(self, name: str) -> None:
        """Count what importing a module executes: its parents, its imports and its bare statements."""
        if name in self.ran:
            return
        if parent := name.rpartition(".")[0]:
            self.run(parent)
        module = self.module(name)
        if module is None:
            return
        self.ran.add(name)
        for imported in module.runs:
            self.run(imported)
        for position, statement in enumerate(module.effects):
            self.count(name, f"{position:06}", statement, statement.contents[0])
        for definition, decorators in module.decorated:
            if any(self.registers(decorator) for decorator in decorators):
                self.reach(name, (definition,))

    def registers(self, decorator: str) -> bool:
        """Whether a decorator of ours can keep what it decorates: an object can, or what fills one."""
        modules = [self.module(name) for name in self.ran]
        candidates = [(module, s) for module in modules for s in module.definitions.get(decorator, [])]
        return any(isinstance(s.node, Assignment) or s.fills & m.definitions.keys() for m, s in candidates)

    def count(self, name: str, label: str, statement: _Statement, mentions: set[Dotted]) -> None:
        self.lines[name] |= {f"{label} = {statement.dump}", *self.rendered(statement.contents[2])}
        self.pending.append((name, statement, mentions))

    def rendered(self, strings: set[str]) -> list[str]:
        """The templates that these strings name, and those that they include."""
        templates = self.sources.templates
        named = strings & templates.keys()
        while named and (
            included := {
                name for name in templates.keys() - named if any(name in templates[other] for other in named)
            }
        ):
            named |= included
        return [f"{name} = {templates[name]}" for name in named]

    def visit(self, name: str, statement: _Statement, mentions: set[Dotted]) -> None:
        imports = statement.contents[1]
        for imported in imports:
            for module in imported.runs:
                self.run(module)
            if imported.bound == "*":
                self.follow(imported.module, ("*",))
        for mention in mentions:
            for imported in imports:
                if imported.bound == mention[0]:
                    self.follow(imported.module, (*imported.attributes, *mention[1:]))
            self.reach(name, mention)

    def follow(self, name: str, attributes: Dotted) -> None:
        """Reach what `name.attributes` stands for, if it is ours."""
        package = name.partition(".")[0]
        if self.module(package) is None:
            return
        self.run(name)
        module, head = self.module(name), "".join(attributes[:1])
        if module is None:
            self.reach_below(package)
        elif not attributes:
            self.reach_below(name)
        elif head == "*":
            for definition in module.definitions:
                self.reach(name, (definition,))
        elif head in module.definitions:
            self.reach(name, attributes)
        elif self.module(f"{name}.{head}"):
            self.follow(f"{name}.{head}", attributes[1:])
        elif "*" not in module.definitions and not head.startswith("__"):
            self.reach_below(package)

    def reach(self, name: str, mention: Dotted) -> None:
        """Count what binds `mention[0]` in a module; only an import cares which attributes of it are used."""
        if (name, mention) in self.reached:
            return
        self.reached.add((name, mention))
        for position, statement in enumerate(self.module(name).definitions.get(mention[0], [])):
            mentions = {mention} if statement.is_import else statement.contents[0]
            self.count(name, f"{mention[0]} {position}", statement, mentions)

    def reach_below(self, name: str) -> None:
        """Reach all of a module, and of its submodules if it is a package."""
        folder = self.sources.root.joinpath(*name.split("."))
        files = [path.relative_to(self.sources.root).with_suffix("") for path in folder.rglob("*.py")]
        for module in {name, *(".".join(file.parts).removesuffix(".__init__") for file in files)}:
            self.follow(module, ("*",))

    def module(self, name: str) -> _Module | None:
        return self.script if name == self.name else self.sources.module(name)


# Keyed by content, not by time stamp: two edits may fall within one tick of the clock.
@lru_cache(maxsize=1024)
def _parse(path: Path, source: bytes, package: str, is_script: bool = False) -> _Module:
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path}: not valid Python: {error}") from error
    _drop_docstrings(tree)
    return _Module(tree, package, is_script)


def _drop_docstrings(node: ast.AST) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            _drop_docstrings(child)
    if isinstance(body := getattr(node, "body", None), list):
        node.body = [child for child in body if not _is_bare_string(child)]


def _is_bare_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _is_for_type_checkers(node: ast.stmt) -> bool:
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _only_binds(node: ast.stmt) -> bool:
    if isinstance(node, Assignment):
        parts = [part for target in _targets(node) for part in ast.walk(target)]
        return not any(isinstance(part, ast.Attribute | ast.Subscript) for part in parts)
    return isinstance(node, Definition) or (isinstance(node, Import) and node.names[0].name != "*")


def _bindings(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """The names that a statement binds, each with the least statement that binds it."""
    if isinstance(node, Definition):
        yield node.name, node
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], ast.Import([alias])
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, ast.ImportFrom(node.module, [alias], node.level)
    elif isinstance(node, Assignment):
        yield from ((name, node) for target in _targets(node) for name in _stored_names(target))
    else:
        yield from ((name, node) for name in _stored_names(node))
        for inner in ast.walk(node):
            if isinstance(inner, Definition | Import):
                yield from _bindings(inner)


def _callee(decorator: ast.expr) -> list[str]:
    """`registry.register("name")` gives registry and register."""
    while isinstance(decorator, ast.Call):
        decorator = decorator.func
    return ast.unparse(decorator).split(".")


def _targets(node: Assignment) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _stored_names(node: ast.AST) -> Iterator[str]:
    return (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _imported(node: Import, package: str) -> Iterator[_Imported]:
    names = [(alias.name, alias.asname) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = resolve_name("." * node.level + (node.module or ""), package)
        for name, alias in names:
            yield _Imported(alias or name, module, (name,), (module, f"{module}.{name}"))
    else:
        for name, alias in names:
            top = name.partition(".")[0]
            yield _Imported(alias or top, name if alias else top, (), (name,))


def _lazy_names(statements: list[_Statement]) -> Iterator[tuple[str, str]]:
    for statement in statements:
        with suppress(AttributeError, ValueError):
            names = ast.literal_eval(statement.node.value).items()
            yield from ((name, module) for name, module in names if isinstance(module, str))
