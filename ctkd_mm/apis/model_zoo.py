"""Configs and weights of MMDetection's model zoo, by name."""

from __future__ import annotations

from pathlib import Path

from mmengine.hub import get_config
from mmengine.utils import get_installed_path

from ctkd_mm.compat.patches import NAMED, own_config
from ctkd_mm.utils.messages import nearest


def find_config(name: str) -> str:
    """Find a config by its path, ``pkg::`` path or name in MMDetection's zoo.

    The path of one of ours, which MMEngine finds only where ctkd_mm is imported.

    Args:
        name: For example ``'retinanet_r50_fpn_1x_coco'``.

    Returns:
        The path, or another package's ``pkg::`` path.

    Raises:
        ValueError: If there is none; with the nearest name.
    """
    if name.startswith(NAMED):
        return own_config(name)
    if '::' in name or Path(name).is_file():
        return name
    zoo = Path(get_installed_path('mmdet')) / '.mim' / 'configs'
    shipped = {path.stem: path for path in zoo.glob('[!_]*/**/*.py')}
    if name in shipped:
        return f'mmdet::{shipped[name].relative_to(zoo).as_posix()}'
    near = nearest(name.rpartition('/')[2], shipped)
    raise ValueError(
        f'{name} is neither a file nor in the model zoo of MMDetection{near}'
    )


def zoo_weights(teacher: str) -> str:
    """Look up the address of a config's weights.

    Args:
        teacher: From :func:`find_config`.

    Returns:
        The URL that MMDetection's metafile gives.

    Raises:
        ValueError: If it gives none.
    """
    try:
        return get_config(teacher, pretrained=True).model_path
    except (AssertionError, AttributeError, ValueError):  # no weights, no entry, a file
        raise ValueError(
            f'the model zoo has no weights for {teacher}: give --teacher-ckpt '
            'PATH_OR_URL'
        ) from None
