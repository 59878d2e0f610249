"""Parts of messages: lists of names, the nearest name."""

from __future__ import annotations

import difflib
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


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most like a misspelt one.

    Args:
        name: The misspelt name.
        known: The names there are.

    Returns:
        For example ``': did you mean tau_range?'``; empty if none is like it.
    """
    near = difflib.get_close_matches(name, list(known), 1)
    return f': did you mean {near[0]}?' if near else ''
