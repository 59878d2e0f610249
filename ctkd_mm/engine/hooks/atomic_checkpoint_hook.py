"""Saves checkpoints completely or not at all, whenever the training is killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmengine.utils import apply_to

from ctkd_mm.registry import HOOKS
from ctkd_mm.utils.files import ATOMIC, write_atomically

# A checkpoint between two of CheckpointHook's; see
# ctkd_mm.engine.hooks.preemption_hook.
PREEMPTED = 'preempted.pth'


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that survives a kill at any moment of a save.

    A checkpoint appears under its name only when all of it is on the disk; what
    ``max_keep_ckpts`` and ``save_best`` replace is removed only then (MMEngine removes
    it first); and before a run, a ``last_checkpoint`` that a kill left empty, or that
    names a missing file, is pointed to the newest checkpoint there is. All tensors are
    the host's, those of other hooks included. The size of every checkpoint is logged.

    Args: as MMEngine's ``CheckpointHook``. A remote ``out_dir`` or an own
    ``backend_args`` are used as they are; then only the order of removals is ours.

    Source: extends :class:`mmengine.hooks.CheckpointHook`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        backend = kwargs.get('backend_args') or kwargs.get('file_client_args')
        self.is_local = not backend and '://' not in str(kwargs.get('out_dir'))
        if self.is_local:
            kwargs['backend_args'] = ATOMIC
        super().__init__(*args, **kwargs)

    def before_run(self, runner: Runner) -> None:
        """Mend ``last_checkpoint``, which ``--resume`` reads, where it is broken."""
        if self.is_local and is_main_process():
            self._mend_last_checkpoint(runner)
        barrier()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Move all to the host, which otherwise could not read it without a GPU.

        MMEngine moves what it stores itself. ``EMAHook`` then puts its averages into
        the weights, from where they are.
        """
        for key, part in checkpoint.items():
            checkpoint[key] = _on_host(part)
            if hasattr(part, '_metadata'):  # versions of modules, in a state dict
                checkpoint[key]._metadata = part._metadata

    def _mend_last_checkpoint(self, runner: Runner) -> None:
        marker = Path(runner.work_dir) / 'last_checkpoint'
        named = marker.read_text().strip() if marker.is_file() else ''
        if named and Path(named).is_file():
            return
        folder = Path(runner.work_dir)
        if self.out_dir not in (None, runner.work_dir):  # as CheckpointHook joins them
            folder = Path(self.out_dir) / folder.name
        start, end = re.split(r'\{.*?\}', self.filename_tmpl, maxsplit=1)
        pattern = re.compile(rf'{re.escape(start)}\d+{re.escape(end)}|{PREEMPTED}')
        paths = {*folder.glob('*'), *marker.parent.glob('*')}  # PREEMPTED is beside it
        found = [path for path in paths if pattern.fullmatch(path.name)]
        if found:
            # A moved folder holds the one that was named.
            same = [path for path in found if path.name == Path(named).name]
            newest = max(same or found, key=lambda path: path.stat().st_mtime_ns)
            write_atomically(marker, str(newest).encode())
            runner.logger.warning(
                f'{marker} named no file (found {named!r}): a save was interrupted, or '
                f'the folder was moved. It names {newest} now'
            )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removals_last():
            super()._save_checkpoint_with_step(runner, step, meta)
        if self.is_local and is_main_process():
            size = Path(self.last_ckpt).stat().st_size / 1e6
            runner.logger.info(f'Saved {self.last_ckpt}, {size:.1f} MB')

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removals_last():
            super()._save_best_checkpoint(runner, metrics)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the optimizer's state from the host.

        PyTorch puts each tensor where it belongs, and Adam's counters of steps belong
        on the host. MMEngine loads all to the device, where the counters would stay,
        and every step would wait for each of them.
        """
        if 'optimizer' in checkpoint:
            checkpoint['optimizer'] = _on_host(checkpoint['optimizer'])

    @contextmanager
    def _removals_last(self) -> Iterator[None]:
        backend, removed = self.file_backend, []
        self.file_backend = copy(backend)
        self.file_backend.remove = removed.append
        try:
            yield
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        saved = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for path in removed:
            if path not in saved:  # the same epoch again, after a resume
                backend.remove(path)


def _on_host(part: Any) -> Any:
    return apply_to(part, torch.is_tensor, lambda x: x.cpu())
