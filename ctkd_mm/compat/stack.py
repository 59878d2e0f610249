"""The installed OpenMMLab packages, compared with the versions that setup.py asks for.

Two sets of packages have the same import names, and setup.py has an extra for each:
``openmmlab`` is OpenMMLab's own releases, ``onedl`` is the maintained forks. Which one
is installed is told by the distribution name of MMEngine.
"""

from __future__ import annotations

from importlib import import_module, metadata, util

from packaging.requirements import Requirement

_FORKS = dict(mmengine='onedl-mmengine', mmcv='onedl-mmcv', mmdet='onedl-mmdetection')


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
    wanted = _requirements().get(name, Requirement(name))
    try:
        found = import_module(name).__version__
        is_wanted = wanted.specifier.contains(found, True)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        found, is_wanted = 'not installed', False
    if is_wanted and name == 'mmcv' and util.find_spec('mmcv._ext') is None:
        found, is_wanted = 'a build without compiled ops (no mmcv._ext)', False
    if is_wanted:
        return
    wanted = f'{wanted.name}{wanted.specifier}'
    command = f"in the checkout of ctkd_mm, pip install -e '.[{installed_extra()}]'"
    if name == 'mmcv':  # the extra would build it in isolation, without its ops
        command = (
            f"pip install --no-build-isolation --no-deps --no-cache-dir '{wanted}'"
        )
    raise ImportError(
        f'{name}: found {found}, ctkd_mm needs {wanted}. Install it: {command}'
    )


def _is_installed(distribution: str) -> bool:
    return any(metadata.distributions(name=distribution))


def _requirements() -> dict[str, Requirement]:
    """Requirements by import name; none when ctkd_mm is used without an install."""
    try:
        lines = metadata.requires('ctkd_mm')
    except metadata.PackageNotFoundError:
        return {}
    extra = {'extra': installed_extra()}
    names = {fork: name for name, fork in _FORKS.items()}
    found = map(Requirement, lines)
    found = [r for r in found if r.marker is None or r.marker.evaluate(extra)]
    return {names.get(r.name, r.name): r for r in found}
