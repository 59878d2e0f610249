"""How messages list names."""

from __future__ import annotations

from collections.abc import Iterable


def some(names: Iterable[str], shown: int = 3) -> str:
    """List the first names, and say how many more there are.

    Args:
        names: Any number.
        shown: How many are spelt out, >= 1.

    Returns:
        For example ``'a, b, c and 2 more'``.
    """
    names = list(names)
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more
