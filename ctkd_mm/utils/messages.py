"""Parts of messages: lists of names, values, suggestions; and warnings."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from mmengine.logging import print_log


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


def value_of(value: Any) -> str:
    """Write a config's value, cut off where it is long."""
    text = repr(value)
    return text if len(text) < 80 else f'{text[:76]} ...'


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that a misspelt one is nearest to.

    Args:
        name: What was found.
        known: What it could be.

    Returns:
        ``': did you mean X?'``, or nothing if no name is near.
    """
    near = get_close_matches(name, list(known), 1)
    return f': did you mean {near[0]}?' if near else ''


def warn(message: str) -> None:
    """Log a warning where MMEngine logs."""
    print_log(message, logger='current', level=logging.WARNING)
