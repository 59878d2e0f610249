"""Errors from building a config, with the keys that they are about."""

from __future__ import annotations

import difflib
import inspect
import os.path as osp
import re
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner

from ctkd_mm.checks.annotation_check import (
    annotation_files,
    check_annotations,
    forgotten_metainfo,
)
from ctkd_mm.utils.messages import some


def explain(error: Exception, cfg: Config) -> str:
    """Say which keys of a config an error is about, and what they should be.

    MMEngine and MMDetection name the class or the file that failed, rarely the place
    in the config. An error from loading data is explained by its annotation file, one
    from a download by what to do without a network.

    Args:
        error: What building or starting a training raised.
        cfg: The config.

    Returns:
        The error's text, with keys, values and the nearest names, as far as known.
    """
    try:
        return _explain(error, cfg)
    except Exception:  # the config, or the data, may be what cannot be looked into
        return str(error) or type(error).__name__


def _explain(error: Exception, cfg: Config) -> str:
    known = inspect.signature(Runner.__init__).parameters
    cfg = {key: cfg[key] for key in cfg if key in known}  # not a config's variables
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any('dataset' in osp.basename(osp.dirname(name)) for name in frames):
        text = _about_data(text, cfg)
    if isinstance(error, URLError):
        text += (
            ': weights could not be downloaded. Download them elsewhere and give the '
            "file's path (load_from, backbone.init_cfg.checkpoint, model.teacher_ckpt)"
        )
    argument = re.search(r"unexpected keyword argument '(\w+)'", text)
    unknown = re.search(r'^(\S+) is not in the \S+::(.+?) registry', text)
    if argument:
        found = _misspelt_arguments(argument.group(1), cfg)
    elif unknown:
        text = unknown.group()
        found = _misspelt_types(*unknown.groups(), cfg)
    else:
        mentioned = ' or '.join(_mentioned(text, cfg) or _building(error, cfg))
        found = [f'correct {mentioned}'] if mentioned else []
    text = text or type(error).__name__
    return f'{text} [{"; ".join(found)}]' if found else text


def _about_data(text: str, cfg: dict) -> str:
    """What is wrong with the data sets, or the text where nothing is."""
    sizes = []
    for loader in ('train_dataloader', 'val_dataloader'):
        loader_cfg = cfg.get(loader) or {}
        for key, ann_file, dataset in annotation_files(
            f'{loader}.dataset', loader_cfg.get('dataset')
        ):
            try:
                coco = check_annotations(key, ann_file, dataset.get('backend_args'))
            except ValueError as error:
                return str(error)
            annotated = len({a['image_id'] for a in coco['annotations']})
            sizes.append(
                f'{key}: {ann_file} has {len(coco["images"])} images, {annotated} of '
                f'them with annotations, for filter_cfg={dataset.get("filter_cfg")}'
                + _about_classes(dataset, [c['name'] for c in coco['categories']])
            )
    if 'at least one array' not in text:
        return text
    return (
        f'a data set has no image left. {". ".join(sizes)}. Give images with boxes of '
        'metainfo.classes, or loosen the filter'
    )


def _about_classes(dataset: dict, names: list[str]) -> str:
    kind = str(dataset.get('type')).split('.')[-1]
    if (dataset.get('metainfo') or {}).get('classes'):
        return ''
    for _, cls in _registered():
        defaults = (getattr(cls, 'METAINFO', None) or {}).get('classes')
        if cls.__name__ == kind and defaults:
            advice = forgotten_metainfo(kind, defaults, names)
            return f'. {advice}' if advice else ''
    return ''


def _misspelt_arguments(name: str, cfg: dict) -> list[str]:
    found = []
    for path, value in walk(cfg):
        if not isinstance(value, dict) or name not in value:
            continue
        known = {
            parameter
            for _, cls in _registered()
            if cls.__name__ == str(value.get('type')).split('.')[-1]
            for parameter in _parameters(cls)
        }
        if name not in known:
            where = f'{path}.{name}'.lstrip('.')
            found.append(f'{where}={value[name]!r}{_nearest(name, known)}')
    return found


def _misspelt_types(name: str, registry: str, cfg: dict) -> list[str]:
    names = {}
    for root, cls in _registered():
        if root.name == registry:
            scope = cls.__module__.split('.')[0]
            prefix = '' if scope in ('mmdet', 'mmengine', 'torch') else f'{scope}.'
            names[cls.__name__] = f'{prefix}{cls.__name__}'
    near = [names[n] for n in difflib.get_close_matches(name.split('.')[-1], names)]
    paths = [path for path, value in walk(cfg) if value == name]
    return [f'{path}={name!r}: did you mean {some(near)}?' for path in paths if near]


def _mentioned(text: str, cfg: dict) -> list[str]:
    """The settings whose value, and whose name unless it is a path, the text has."""
    by_parent: dict[str, list] = {}
    for path, value in walk(cfg):
        parent, _, name = path.rpartition('.')
        if parent and path in text:
            return []  # it says so itself
        if isinstance(value, dict) or name.isdigit():
            continue
        named = _word(name, text, '') and _word(str(value), text)
        if named or isinstance(value, str) and len(value) > 8 and value in text:
            by_parent.setdefault(parent, []).append(f'{path}={value!r}')
    most = max(map(len, by_parent.values()), default=0)
    groups = [lines for lines in by_parent.values() if len(lines) == most]
    return [line for lines in groups for line in lines]


def _building(error: Exception, cfg: dict) -> list[str]:
    """The parts of the config in whose class a value of a wrong type was met."""
    if not isinstance(error, TypeError):
        return []
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    built = [frame for frame in frames if frame.f_code.co_name == '__init__']
    for frame in reversed(built):
        kind = type(frame.f_locals.get('self')).__name__
        found = [
            f'{path}={_own_values(value)}'
            for path, value in walk(cfg)
            if isinstance(value, dict) and str(value.get('type')).split('.')[-1] == kind
        ]
        if found:
            return found
    return []


def _own_values(cfg: dict) -> dict:
    """The arguments of a class itself, without the parts that it is built of."""
    parts = {k: v if isinstance(v, (list, tuple)) else [v] for k, v in cfg.items()}
    return {
        key: cfg[key]
        for key, values in parts.items()
        if not any(isinstance(value, dict) for value in values)
    }


def _word(word: str, text: str, joined: str = '.') -> bool:
    """Whether the text has the word, not as part of a number or, joined, of a path."""
    return bool(re.search(rf'(?<![\w{joined}]){re.escape(word)}(?!\w|\.\d)', text))


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f': did you mean {near[0]}?'
    return f': it takes {some(sorted(known - {"self"}), 16)}' if known else ''


def walk(cfg: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Go through a config.

    Args:
        cfg: A config or a part of one.
        path: Where the part stands.

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


def _registered() -> Iterator[tuple[Registry, Any]]:
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            for registry in (root, *root.children.values()):
                for cls in registry.module_dict.values():
                    if inspect.isclass(cls):
                        yield root, cls


def _parameters(cls: type) -> Iterator[str]:
    """Arguments of a class, those that it hands on to its parents included."""
    for base in inspect.getmro(cls):
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            yield from (p.name for p in parameters)
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                return
