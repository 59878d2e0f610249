"""Repairs of MMEngine; no other module changes it.

torch >= 2.6 refuses the checkpoints that MMEngine writes. So the few types in them are
allowed, and every load of MMEngine, from files and URLs, keeps to that list. Without
torchvision, MMEngine still finds the weights that ``torchvision://`` names. What would
run our hooks and models by other rules refuses them.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ctkd_mm.compat import imports, stack

# In a wheel the folder itself, in a checkout a link.
CONFIGS = (Path(__file__).parents[1] / '.mim' / 'configs').resolve()
NAMED = 'ctkd_mm::'


def apply() -> None:
    """Apply every repair that this environment needs.

    Those of MMEngine are applied when it imports the module, which takes a second.

    Raises:
        ImportError: If MMEngine is missing or outside its bounds.
    """
    stack.require('mmengine')
    imports.apply({**imports.REPAIRS, **REPAIRS})
    # Before 2.6 torch restricts nothing by default, so there is nothing to allow.
    if torch.__version__ >= (2, 6):
        _allow_mmengine_types()


def own_config(name: str) -> str:
    """Return the path of a config that ``ctkd_mm::...`` names."""
    return str(CONFIGS / name[len(NAMED) :])


def import_config(execute: Callable, module: ModuleType) -> None:
    """Let ``Config.fromfile`` take what ``_base_`` takes: names of configs in packages.

    For MMEngine the packages are OpenMMLab's alone; ours is one here. Its configs get
    no scope: they are as those of a checkout.
    """
    execute(module)
    find, from_file = module.Config._get_cfg_path, module.Config.fromfile

    def get_cfg_path(path: str, filename: str) -> tuple[str, str | None]:
        if path.startswith(NAMED):
            return own_config(path), None
        return find(path, filename)

    @wraps(from_file)
    def fromfile(filename: str | Path, *args: Any, **kwargs: Any) -> Any:
        named = isinstance(filename, str) and '::' in filename
        path = get_cfg_path(filename, '')[0] if named else filename
        return from_file(path, *args, **kwargs)

    module.Config._get_cfg_path = staticmethod(get_cfg_path)
    module.Config.fromfile = staticmethod(fromfile)


def import_runner(execute: Callable, module: ModuleType) -> None:
    """Let ``default_hooks.NAME=None`` switch any hook off.

    MMEngine does so for its own six names, and for others fails without a word.
    """
    from mmengine.hooks import Hook

    execute(module)
    register = module.Runner.register_default_hooks
    # A bare Hook does nothing.
    module.Runner.register_default_hooks = lambda runner, hooks=None: register(
        runner, {k: Hook() if v is None else v for k, v in (hooks or {}).items()}
    )


def import_flexible_runner(execute: Callable, module: ModuleType) -> None:
    """Refuse ours under FlexibleRunner: FSDP, DeepSpeed, ColossalAI.

    They move weights one by one, without the teacher, which is no submodule; a rank has
    but a part of them; their optimizers have not what the hooks need; and
    FlexibleRunner stores another epoch and iteration than it is given.
    """
    execute(module)
    # The first that it does with a model that is built, in any mode.
    cls, name = module.FlexibleRunner, 'load_or_resume'
    _refuse_ours(cls, name, lambda self: [*self.hooks, *self.model.modules()])


def import_fsdp(execute: Callable, module: ModuleType) -> None:
    """Refuse ours under FSDP, as a ``model_wrapper_cfg`` of ``Runner`` too."""
    execute(module)
    cls = module.MMFullyShardedDataParallel
    _refuse_ours(cls, '__init__', lambda self, module, *_, **__: module.modules())


def _refuse_ours(cls: type, name: str, parts: Callable) -> None:
    """Make a method refuse to run with hooks or modules of ours among ``parts``."""
    method = getattr(cls, name)

    @wraps(method)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        for kind in (k for part in parts(*args, **kwargs) for k in type(part).__mro__):
            if kind.__module__.startswith('ctkd_mm.'):
                raise NotImplementedError(
                    f'{cls.__name__} does not support ctkd_mm.{kind.__name__}: train '
                    'with Runner and DDP (no runner_type, strategy, model_wrapper_cfg)'
                )
        return method(*args, **kwargs)

    setattr(cls, name, refuse)


def _allow_mmengine_types() -> None:
    """Allow what MMEngine stores beside tensors: its log history, NumPy numbers."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

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
    for value in (np.zeros(1), np.float64(0)):
        rebuild = value.__reduce__()[0]
        for core in ('_core', 'core'):
            allowed.append((rebuild, f'numpy.{core}.multiarray.{rebuild.__name__}'))
    torch.serialization.add_safe_globals(allowed)


def import_checkpoint(execute: Callable, module: ModuleType) -> None:
    """Find torchvision's weights without it; restrict loads to the allowed types."""
    execute(module)
    if importlib.util.find_spec('torchvision') is None:
        _find_torchvision_urls(module)
    if torch.__version__ >= (2, 6):
        _restrict_loaders(module)


def _find_torchvision_urls(checkpoint: ModuleType) -> None:
    """Serve ``torchvision://resnet18`` without torchvision.

    MMEngine imports it for its version alone, and reads the URLs of 0.12 from a file.
    """
    import mmengine

    table = Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json'
    checkpoint.get_torchvision_models = partial(mmengine.load, table)


def _restrict_loaders(checkpoint: ModuleType) -> None:
    """Restrict MMEngine's loads and explain refusals."""
    loader = checkpoint.CheckpointLoader
    load = loader.load_checkpoint

    def load_checkpoint(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(filename, *args, **kwargs)
        except Exception as error:  # damaged files fail in any way
            unlisted = isinstance(error, KeyError) and '://' in filename
            if unlisted or isinstance(error, OSError):
                raise  # no such name in a model zoo; no such file or address
            raise pickle.UnpicklingError(_refusal(filename, error)) from error

    loader.load_checkpoint = staticmethod(load_checkpoint)
    # torch.hub still defaults to False; None stands for torch.load's default.
    checkpoint.load_url = partial(checkpoint.load_url, weights_only=None)
    # The fork loads once more, without any restriction, what its own list refuses.
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = torch.load


def _refusal(source: str, error: Exception) -> str:
    """Say what is wrong with a file that could not be loaded, and the cure."""
    pattern = r"GLOBAL (\S+) w|but got <class '(\S+)'>|refused (getattr\(.*\))"
    refused = re.search(pattern, str(error))
    if refused is None:
        # torch's own advice before its reason is about files that it could read.
        reason = str(error).rpartition('WeightsUnpickler error: ')[2].strip()
        return (
            f'{source} could not be read ({type(error).__name__}: {reason}). Give a '
            'whole file that torch.save has written'
        )
    kind = refused[refused.lastindex]
    # torch offers no allow-listing of what is never a mere type, as os.system.
    listed = 'add_safe_globals' in str(error)
    allow = f'torch.serialization.add_safe_globals([{kind}]) or ' if listed else ''
    return (
        f'{source} holds more than weights and was not loaded: {kind}. Loading that '
        f'can run any code. If you trust the file, {allow}set '
        'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for this command'
    )


REPAIRS = {
    'mmengine.config.config': import_config,
    'mmengine.runner.runner': import_runner,
    'mmengine.runner._flexible_runner': import_flexible_runner,
    'mmengine.model.wrappers.fully_sharded_distributed': import_fsdp,
    'mmengine.runner.checkpoint': import_checkpoint,
}
