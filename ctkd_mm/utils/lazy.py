"""Packages that import their modules on first use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def face(package: str, **modules: str) -> tuple[Callable[[str], Any], list[str]]:
    """Make ``__getattr__`` and ``__all__`` of a package, as PEP 562 has them.

    Args:
        package: The package's ``__name__``.
        modules: The public names of each module, with spaces between them. Dotted
            paths are relative to the package.

    Returns:
        A function that imports a name's module on first use and raises AttributeError
        for any other name; and the public names.
    """
    where = {name: path for path, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'{package}.{where[name]}'), name)

    return load, sorted(where)
