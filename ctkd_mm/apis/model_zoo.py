"""Configs and weights of MMDetection's model zoo, by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from urllib.parse import unquote

from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hub import get_config

from ctkd_mm.utils.messages import some


def find_config(name: str) -> str:
    """Find a config by its path, ``pkg::`` path or name in MMDetection's zoo.

    Args:
        name: For example ``'retinanet_r50_fpn_1x_coco'``.

    Returns:
        The path, or a ``pkg::`` path.

    Raises:
        ValueError: If there is none; with the nearest names.
    """
    shipped: dict[str, list[str]] = {}
    for path in sorted(_zoo().glob('[!_]*/**/*.py')):
        found = f'mmdet::{path.relative_to(_zoo()).as_posix()}'
        shipped.setdefault(path.stem, []).append(found)
    other_package = '::' in name and not name.startswith('mmdet::')
    stem = name[:-3] if name.endswith('.py') else name
    known = name in shipped.get(stem.rpartition('/')[2], ())
    if Path(name).is_file() or known or other_package:
        return name
    if len(shipped.get(stem, ())) > 1:
        raise ValueError(f'{name} names several: {", ".join(shipped[stem])}; give one')
    if stem in shipped:
        return shipped[stem][0]
    near = difflib.get_close_matches(stem.rpartition('/')[2], shipped)
    raise ValueError(
        f'{name} is no file, and MMDetection ships no config of this name'
        + (f'; near to it are {some(near)}' if near else '')
    )


def load_config(name: str) -> Config:
    """Load what :func:`find_config` found."""
    package, _, path = name.rpartition('::')
    if package == 'mmdet':
        return Config.fromfile(_zoo() / path)
    if not package:
        return Config.fromfile(name)
    try:
        return get_config(name)
    except Exception as error:  # MMEngine's are of many kinds and name no package
        raise ValueError(f'{name} is no config of a package here: {error}') from error


def zoo_weights(teacher: str) -> str:
    """Look up the address of a config's weights.

    Args:
        teacher: From :func:`find_config`.

    Returns:
        The URL that MMDetection's metafile gives.

    Raises:
        ValueError: If it gives none.
    """
    path = teacher.replace('mmdet::', 'configs/')
    metafile = (_zoo().parent / path).with_name('metafile.yml')
    if teacher.startswith('mmdet::') and metafile.is_file():
        found = load(metafile)
        for model in found['Models'] if isinstance(found, dict) else found:
            weights = model.get('Weights')
            if unquote(model['Config']) == path and isinstance(weights, str):
                return weights
    raise ValueError(
        f'the model zoo has no weights for {teacher}: give --teacher-ckpt PATH_OR_URL'
    )


def _zoo() -> Path:
    import mmdet

    folder = Path(mmdet.__file__).parent / '.mim' / 'configs'
    if not folder.is_dir():
        raise ImportError(
            f'{folder} is missing from the installed MMDetection {mmdet.__version__}: '
            'reinstall it from a wheel, or run "mim install mmdet"'
        )
    return folder
