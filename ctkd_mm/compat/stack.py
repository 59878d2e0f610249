"""The OpenMMLab stack that is installed, held to the bounds in setup.py.

Two stacks have the same import names, one extra each: ``openmmlab``, OpenMMLab's own
releases, and ``onedl``, the maintained forks. MMEngine's distribution tells which.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from typing import Any, NoReturn

_FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
}


def installed_extra() -> str:
    """Returns the extra whose MMEngine is installed: 'openmmlab' or 'onedl'."""
    return 'onedl' if _has(_FORKS['mmengine']) else 'openmmlab'


def require_openmmlab() -> None:
    """Checks the stack that distillation needs, in the order of its imports.

    Only import names and ``__version__`` count, so another fork under another
    distribution name passes.

    Raises:
        ImportError: If a package is missing, outside its bounds, without its ops, or
            installed from both stacks.
    """
    for name in ('mmengine', 'mmcv', 'mmdet', 'mmrazor', 'joblib'):
        require(name)
        if name == 'mmcv' and importlib.util.find_spec('mmcv._ext') is None:
            _raise(name, 'a build without compiled ops (no mmcv._ext)')
    from mmengine.utils import get_installed_path

    # MMEngine 0.10 finds `mmdet::` config bases with a module that setuptools 82 lost.
    # A fork that does without may have any setuptools.
    needs = 'pkg_resources' in get_installed_path.__code__.co_names
    if needs and importlib.util.find_spec('pkg_resources') is None:
        _raise('setuptools', 'none with pkg_resources')


def require(name: str) -> None:
    """Imports a package and holds its ``__version__`` to its bounds.

    Args:
        name: Import name.

    Raises:
        ImportError: If the package is missing, outside its bounds, or installed from
            both stacks.
    """
    fork = _FORKS.get(name)
    if fork and _has(name) and _has(fork):
        raise ImportError(
            f'{name} and {fork} are both installed and overwrite each other. Remove '
            f'both (pip uninstall {name} {fork}), then install the one that you want.'
        )
    failure = None
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        _raise(name, 'not installed')
    except AssertionError as error:
        # A wrong release may blame another package here; its own version says more.
        module, failure = sys.modules.get(f'{name}.version'), error
    found, wanted = getattr(module, '__version__', None), _wanted().get(name)
    if found and wanted and not wanted.specifier.contains(found, prereleases=True):
        _raise(name, found)
    if failure:
        raise failure


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _wanted() -> dict[str, Any]:
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


def _raise(name: str, found: str) -> NoReturn:
    wanted = _wanted().get(name)
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
