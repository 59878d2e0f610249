"""Configs: a walk through one, and the names of types in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def walk(cfg: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Go through a config.

    Args:
        cfg: A config or a part of one.
        path: Dotted key of that part.

    Yields:
        Every setting with its dotted key, containers before what they contain.
    """
    yield path, cfg
    items: Any = ()
    if isinstance(cfg, dict):
        items = cfg.items()
    elif isinstance(cfg, (list, tuple)):
        items = enumerate(cfg)
    for key, value in items:
        yield from walk(value, f'{path}.{key}' if path else str(key))


def bare(name: str | type | None) -> str:
    """Return a class name without its scope: ``'GlobalTemperature'``."""
    return getattr(name, '__name__', str(name).rpartition('.')[2])
