"""The installed OpenMMLab stack and its bounds, which setup.py holds.

Two stacks have the same import names, one extra each: ``openmmlab``, OpenMMLab's own
releases, and ``onedl``, the maintained forks. MMEngine's distribution tells which.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

_FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
}


def installed_extra() -> str:
    """Return the extra whose MMEngine is installed: 'openmmlab' or 'onedl'."""
    return 'onedl' if _is_installed(_FORKS['mmengine']) else 'openmmlab'


def require_openmmlab() -> None:
    """Check the stack that distillation needs, in the order of its imports.

    Only import names and ``__version__`` count, so another fork under another
    distribution name passes.

    Raises:
        ImportError: If a package is missing, outside its bounds, without its ops, or
            installed from both stacks.
    """
    for name in ('mmengine', 'mmcv', 'mmdet', 'mmrazor', 'joblib'):
        require(name)


def require(name: str) -> None:
    """Import a package and compare its ``__version__`` with its bounds.

    Args:
        name: Import name.

    Raises:
        ImportError: If the package is missing, outside its bounds, without its ops, or
            installed from both stacks.
    """
    fork = _FORKS.get(name)
    if fork and _is_installed(name) and _is_installed(fork):
        raise ImportError(
            f'{name} and {fork} are both installed and overwrite each other. Remove '
            f'both (pip uninstall {name} {fork}), then install the one that you want.'
        )
    wanted = _requirements().get(name)
    try:
        found = getattr(importlib.import_module(name), '__version__', None)
        is_wanted = wanted is None or wanted.specifier.contains(found, True)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        found, is_wanted = 'not installed', False
    if is_wanted and name == 'mmcv' and importlib.util.find_spec('mmcv._ext') is None:
        found, is_wanted = 'a build without compiled ops (no mmcv._ext)', False
    if is_wanted:
        return
    wanted = f'{wanted.name}{wanted.specifier}' if wanted else name
    command = f"in the checkout of ctkd_mm, pip install -e '.[{installed_extra()}]'"
    if name == 'mmcv':  # the extra would build it in isolation, without its ops
        command = (
            'a prebuilt wheel, or pip install --no-build-isolation --no-deps '
            f"--no-cache-dir '{wanted}'"
        )
    raise ImportError(
        f'{name}: found {found}, ctkd_mm needs {wanted}. Install it: {command}'
    )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _requirements() -> dict[str, Any]:
    """Requirements by import name; none when ctkd_mm is used without an install."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires('ctkd_mm') or []
    except ImportError:
        return {}
    extra = {'extra': installed_extra()}
    found = [Requirement(line) for line in lines]
    found = [r for r in found if r.marker is None or r.marker.evaluate(extra)]
    names = {fork: name for name, fork in _FORKS.items()}
    return {names.get(r.name, r.name): r for r in found}
