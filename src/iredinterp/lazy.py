"""Packages whose names load their modules on first use, so that importing a package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(package: str, public: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """What a package needs to offer names of modules that it has not loaded.

    Args:
        package: its `__name__`.
        public: name → module that defines it; as the literal `_PUBLIC`, `provenance.code_digest` follows it.

    Returns:
        `__getattr__`, `__dir__` and `__all__` of the package.

    Source:
        PEP 562.
    """
    namespace = vars(sys.modules[package])

    def load(name: str) -> object:
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return namespace.setdefault(name, getattr(import_module(public[name]), name))

    def names() -> list[str]:
        return sorted({*namespace, *public})

    return load, names, sorted(public)
