"""Explains errors of a config: where in it the misspelt name stands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import mmengine.registry
from mmengine.config import Config

from ctkd_mm.checks.config import other_constructor
from ctkd_mm.checks.data import emptied_data
from ctkd_mm.utils.config import bare, walk
from ctkd_mm.utils.messages import nearest

MISSPELT_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
MISSPELT_TYPE = re.compile(r'^(\S+) is not in the \S+::(.+?) registry')
NO_IMAGE = 'need at least one array'  # NumPy's words for a data set of none


def explain(error: Exception, cfg: Config) -> str:
    """Add to an error the places in a config where it comes from.

    MMEngine names the class that failed, rarely the place in the config.

    Args:
        error: What building or starting a training raised.
        cfg: The config.

    Returns:
        The error's own text. For a misspelt argument or type, key, value and the
        nearest name follow; for a data set that kept no image, its wrong classes; for
        what a distiller lacks and a detector has, the optimizer's constructor.
    """
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    try:
        found = list(_causes(text, cfg))
    except Exception:  # the config itself may be broken
        found = []
    text = text or type(error).__name__
    return f'{text} [{"; ".join(found)}]' if found else text


def _causes(text: str, cfg: Config) -> Iterator[str]:
    argument, unknown = MISSPELT_ARGUMENT.search(text), MISSPELT_TYPE.search(text)
    if argument:
        name = argument[1]
        for path, value in walk({**cfg}):
            if isinstance(value, dict) and {'type', name} <= value.keys():
                accepted = _arguments(bare(value['type']))
                if name not in accepted:
                    yield f'{path}.{name}={value[name]!r}{nearest(name, accepted)}'
    elif unknown:
        name, kind = unknown.groups()
        near = nearest(bare(name), [cls.__name__ for cls in _registered(kind)])
        yield from (f'{path}={name!r}{near}' for path, v in walk({**cfg}) if v == name)
    elif NO_IMAGE in text:
        yield from emptied_data(cfg)
    elif text.startswith(f"'{bare(cfg.model.type)}' object has no attribute"):
        yield from other_constructor(cfg)


def _registered(kind: str | None = None) -> Iterator[type]:
    """Every class of the registries of one kind, such as ``model``, or of all."""
    for root in vars(mmengine.registry).values():
        if isinstance(root, mmengine.registry.Registry) and kind in (None, root.name):
            for part in (root, *root.children.values()):
                yield from filter(inspect.isclass, part.module_dict.values())


def _arguments(name: str) -> set[str]:
    """Names of the arguments of the classes of a name and of their parents."""
    known = [cls for cls in _registered() if cls.__name__ == name]
    found = [inspect.signature(base.__init__) for cls in known for base in cls.__mro__]
    return {argument for signature in found for argument in signature.parameters}
