"""Repairs of the OpenMMLab stack for current PyTorch; nothing else patches it.

:func:`apply`, run by ``import ctkd_mm``, acts only where it is needed. MMRazor 1.0.0
does not import on torch 2 because of its quantization package alone: a placeholder
takes its place if, and only if, it fails. It refuses the forked MMCV by its version
number: its own check, and nothing else, sees the newest number that it takes.
torch >= 2.6 refuses the checkpoints that MMEngine writes: the few types in them are
allowed, and MMEngine's loads from files and URLs all keep to that list. Without
torchvision, MMEngine still finds what ``torchvision://`` names: it has the table.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os.path as osp
import pickle
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, NoReturn

import torch

from ctkd_mm.compat import stack as _stack

_QUANTIZATION = 'mmrazor.structures.quantization'


def apply() -> None:
    """Applies every repair that this environment needs, once.

    Raises:
        ImportError: If MMEngine is missing or outside its bounds.
    """
    _stack.require('mmengine')
    if any(isinstance(finder, _Importer) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Quantization(_QUANTIZATION))
    if _stack.installed_extra() == 'onedl':
        sys.meta_path.insert(0, _VersionCheck('mmrazor'))

    from mmengine.utils import digit_version

    _find_torchvision_urls()
    # Before 2.6 torch restricts nothing by default, so there is nothing to allow.
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        _allow_mmengine_types()
        _restrict_mmengine_loaders()


def _find_torchvision_urls() -> None:
    """Serves ``torchvision://resnet18`` without torchvision.

    MMEngine imports it for its version alone, and reads the URLs of 0.12 from a file.
    """
    import mmengine
    from mmengine.runner import checkpoint

    original = checkpoint.get_torchvision_models

    def get_torchvision_models() -> dict[str, str]:
        try:
            return original()
        except ModuleNotFoundError as error:
            if error.name != 'torchvision':
                raise
            table = osp.join(mmengine.__path__[0], 'hub', 'torchvision_0.12.json')
            return mmengine.load(table)

    checkpoint.get_torchvision_models = get_torchvision_models


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands around the import of one module, which its own loader executes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        # A package that imports by itself keeps no trace of us.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)


class _VersionCheck(_Importer):
    """Imports MMRazor, whose __init__ asserts mmcv <= 2.1.0 and does nothing else."""

    def exec_module(self, module: ModuleType) -> None:
        import mmcv

        found, mmcv.__version__ = mmcv.__version__, '2.1.0'
        try:
            super().exec_module(module)
        finally:
            mmcv.__version__ = found


class _Quantization(_Importer):
    """Imports MMRazor's quantization package, or else makes it a placeholder."""

    error: ImportError | None = None

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.startswith(self.name + '.') and self.error is not None:
            _refuse(fullname, self.error)
        return super().find_spec(fullname, path, target)

    def exec_module(self, module: ModuleType) -> None:
        self.error = None
        try:
            super().exec_module(module)
        except ImportError as error:
            self.error = error
            for name in [n for n in sys.modules if n.startswith(self.name + '.')]:
                del sys.modules[name]
            for name in [n for n in vars(module) if not n.startswith('__')]:
                delattr(module, name)
            module.__all__ = []
            module.__getattr__ = self.placeholder

    def placeholder(self, name: str) -> _Placeholder:
        # Inspection asks anything for dunders: those are absent, which is no error.
        if name.startswith('__'):
            raise AttributeError(f'placeholder of {_QUANTIZATION} has no {name}')
        return _Placeholder(f'{_QUANTIZATION}.{name}', self.error)


class _Placeholder:
    """Stands for a name of the package so that MMRazor can import it; no use works."""

    def __init__(self, name: str, error: ImportError) -> None:
        vars(self).update(_name=name, _error=error)

    def _use(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(self._name, self._error)

    # Subclassing what is no class asks for __mro_entries__.
    __call__ = __getitem__ = __iter__ = __contains__ = __setattr__ = _use
    __mro_entries__ = __instancecheck__ = __subclasscheck__ = _use

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith('__'):
            raise AttributeError(f'placeholder of {self._name} has no {name}')
        self._use()


def _refuse(name: str, error: ImportError) -> NoReturn:
    raise ImportError(
        f'{name} is not available: the quantization package of MMRazor does not '
        f'import on torch {torch.__version__} ({error}). MMRazor 1.0.0 needs helpers '
        'of torch.ao.quantization that torch 2 removed. Distillation does not use '
        'them; quantization needs torch < 2 or another MMRazor.',
        name=name,
    ) from error


def _allow_mmengine_types() -> None:
    """Allows what MMEngine stores beside tensors: its log history, NumPy numbers."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    try:
        from numpy._core import multiarray
    except ImportError:  # NumPy < 1.26
        from numpy.core import multiarray

    def guarded_getattr(obj: Any, name: str) -> Any:
        # HistoryBuffer pickles its own statistics as getattr(HistoryBuffer, 'mean').
        # The real getattr would give a file every attribute of every allowed object.
        if obj is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
            return getattr(HistoryBuffer, name)
        raise pickle.UnpicklingError(f'refused getattr({obj!r}, {name!r})')

    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    allowed += [type(np.dtype(code)) for code in '?bhilqBHILQefd']
    allowed += [(guarded_getattr, 'builtins.getattr')]
    # NumPy 2's name and NumPy 1's: files outlive the environment that wrote them.
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        for name in ('_reconstruct', 'scalar'):
            allowed.append((getattr(multiarray, name), f'{module}.{name}'))
    torch.serialization.add_safe_globals(allowed)


def _restrict_mmengine_loaders() -> None:
    """Holds MMEngine's loads to the allow-list and explains what that refuses."""
    from mmengine.runner import CheckpointLoader, checkpoint

    # MMEngine logs the backend by the function's name, "load_from_" cut off.
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        filename = osp.expanduser(filename)
        if not osp.isfile(filename):
            raise FileNotFoundError(f'{filename} can not be found.')
        # torch's own default, whatever MMEngine's: torch's opt-in variable works.
        try:
            with _explained(filename):
                return torch.load(filename, map_location=map_location)
        except Exception as error:  # damaged files fail in any way
            if 'more than weights' in str(error):
                raise
            raise pickle.UnpicklingError(
                f'{filename} is no checkpoint, damaged or cut short '
                f'({osp.getsize(filename)} bytes): get it again, or go back to an '
                f'older one ({type(error).__name__}: {error})'
            ) from error

    original = checkpoint.load_url

    def load_url(url: str, *args: Any, **kwargs: Any) -> Any:
        # torch.hub still defaults to False; None stands for torch.load's default.
        with _explained(url):
            return original(url, *args, **{**kwargs, 'weights_only': None})

    CheckpointLoader.register_scheme('', load_from_local, force=True)
    # torchvision://, open-mmlab:// and mmcls:// call load_from_http by name, past the
    # registered schemes; only the download below it serves them all.
    checkpoint.load_url = load_url
    # The fork loads once more, without any restriction, what its own list refuses.
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = torch.load


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Makes a refusal by the allow-list name the file, the types and the opt-ins."""
    try:
        yield
    except pickle.UnpicklingError as error:
        pattern = r"GLOBAL (\S+) w|but got <class '(\S+)'>|refused (getattr\(.*\))"
        found = [''.join(groups) for groups in re.findall(pattern, str(error))]
        if not found:  # damaged, not refused
            raise
        with suppress(OSError, ValueError):  # a URL, a file older than torch 1.6
            found += torch.serialization.get_unsafe_globals_in_checkpoint(source)
        types = ', '.join(sorted({re.sub(r'^builtins\.', '', name) for name in found}))
        # torch offers no allow-listing of what is never a mere type, as os.system.
        allow = (
            f'allow each type first, torch.serialization.add_safe_globals([{types}])'
        )
        allow = f'either {allow}, or ' if 'add_safe_globals' in str(error) else ''
        raise pickle.UnpicklingError(
            f'{source} holds more than weights and was not loaded: {types}. Loading '
            f'that can run any code. If you trust whoever made the file, {allow}set '
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for this one command.'
        ) from error
