"""Errors of building a config, with the key that a misspelt name stands at."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

from ctkd_mm.checks.data import without_metainfo
from ctkd_mm.utils.config import bare, walk
from ctkd_mm.utils.messages import nearest

MISSPELT_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
MISSPELT_TYPE = re.compile(r'^(\S+) is not in the \S+::(.+?) registry')
NO_IMAGE = 'need at least one array'  # NumPy's words for a data set of none


def explain(error: Exception, cfg: Config) -> str:
    """Add to an error the keys of the names in a config that it is about.

    MMEngine names the class that failed, rarely the place in the config.

    Args:
        error: What building or starting a training raised.
        cfg: The config.

    Returns:
        The error's own text; for a misspelt argument or type followed by key, value
        and the nearest name; for data that kept no image as their classes were not
        given, by those classes.
    """
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    try:
        found = list(_causes(text, cfg))
    except Exception:  # the config may be what cannot be looked into
        found = []
    text = text or type(error).__name__
    return f'{text} [{"; ".join(found)}]' if found else text


def _causes(text: str, cfg: Config) -> Iterator[str]:
    argument, unknown = MISSPELT_ARGUMENT.search(text), MISSPELT_TYPE.search(text)
    if argument:
        name = argument.group(1)
        for path, value in walk({**cfg}):
            if isinstance(value, dict) and {'type', name} <= value.keys():
                accepted = {p for c in _classes(value.get('type')) for p in _takes(c)}
                if name not in accepted:
                    yield f'{path}.{name}={value[name]!r}{nearest(name, accepted)}'
    elif unknown:
        name, registry = unknown.groups()
        near = nearest(bare(name), [cls.__name__ for _, cls in _registered(registry)])
        yield from (f'{path}={name!r}{near}' for path, v in walk({**cfg}) if v == name)
    elif NO_IMAGE in text:
        yield from without_metainfo(cfg)


def _registered(name: str | None = None) -> Iterator[tuple[Registry, type]]:
    """Every registered class, of one kind of registry or of all."""
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry) and name in (None, root.name):
            for registry in (root, *root.children.values()):
                for cls in registry.module_dict.values():
                    if inspect.isclass(cls):
                        yield root, cls


def _classes(kind: Any) -> list[type]:
    return [cls for _, cls in _registered() if cls.__name__ == bare(kind)]


def _takes(cls: type) -> Iterator[str]:
    """Arguments of a class, those that it hands on to its parents included."""
    for base in inspect.getmro(cls):
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            yield from (p.name for p in parameters)
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                return
