"""Packages that import their modules on first use."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def face(package: str, path: str) -> tuple[Callable[[str], Any], list[str]]:
    """Make ``__getattr__`` and ``__all__`` of a package, as PEP 562 has them.

    The public names are those that the stub beside it, ``__init__.pyi``, imports: what
    type checkers read, and Python here.

    Args:
        package: The package's ``__name__``.
        path: Its ``__file__``.

    Returns:
        A function that imports a name's module on first use and raises AttributeError
        for any other name; and the public names.
    """
    where = {}
    for line in ast.parse(Path(path).with_suffix('.pyi').read_text()).body:
        if isinstance(line, ast.ImportFrom):
            module, names = f'{package}.{line.module}', [one.name for one in line.names]
            if names == ['*']:
                names = import_module(module).__all__
            where.update(dict.fromkeys(names, module))

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(where[name]), name)

    return load, sorted(where)
