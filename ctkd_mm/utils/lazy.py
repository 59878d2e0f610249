"""Packages that import their modules on first use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def face(
    package: str, modules: dict[str, str]
) -> tuple[Callable[[str], Any], list[str]]:
    """Make ``__getattr__`` and ``__all__`` of a package, as PEP 562 has them.

    Args:
        package: The package's ``__name__``.
        modules: By module, relative to the package: its public names, with spaces
            between them.

    Returns:
        A function that imports a name's module on first use and raises AttributeError
        for any other name; and the public names.
    """
    where = {
        name: module for module, names in modules.items() for name in names.split()
    }

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'{package}.{where[name]}'), name)

    return load, sorted(where)
