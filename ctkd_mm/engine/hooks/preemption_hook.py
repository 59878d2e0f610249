"""Saves a training that is told to stop, so that a resume goes on exactly."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ctkd_mm.engine.hooks.atomic_checkpoint_hook import PREEMPTED, AtomicCheckpointHook
from ctkd_mm.registry import HOOKS
from ctkd_mm.utils.files import ATOMIC, write_atomically
from ctkd_mm.utils.model import optim_wrappers

# EX_TEMPFAIL of sysexits.h: saved, run me again with --resume.
EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_VALIDATION_LEFT = 'preempted_in_validation'


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM or SIGUSR1 saves at the next iteration and exits with code 75.

    A signal to one process is enough: all agree after every iteration, where MMEngine
    has just waited for the GPU to log the losses. The checkpoint is
    ``work_dir/preempted.pth``, written all or nothing as ``last_checkpoint`` is, so
    ``--resume`` finds it; it holds the state after that iteration, in the middle of an
    epoch too, from where
    :class:`ctkd_mm.engine.loops.resumable_loops.ResumableEpochBasedTrainLoop` goes on
    exactly. A run stopped in a validation begins that validation anew. With gradient
    accumulation the save waits for the update that completes it.

    Signals repeat themselves (a scheduler sends SIGTERM after SIGUSR1), so any further
    one is the same request. SIGINT and SIGKILL stop at once, as ever. Before training
    signals act as if there were no hook, as nothing can be lost; a run that gets one
    after its last iteration and validation finishes. torchrun passes SIGTERM on, not
    SIGUSR1, and itself exits with 1.

    Data loader workers started during training are out of the signals' reach (Slurm
    signals them too, and without data no iteration ends). Those of an iteration-based
    loop start before it: there, use ``num_workers=0`` or signal the main processes.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    # After the optimizer, the schedules, EMA and CheckpointHook.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.requested = False
        self._training = False
        self._handlers: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Listen; then do the validation that the interrupted run left undone."""
        if threading.current_thread() is threading.main_thread():
            self._listen()
        self._training = True
        left = runner.message_hub.pop_info(_VALIDATION_LEFT, False)
        if left and runner.val_loop is not None:
            runner.val_loop.run()

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        """Save and exit if any process was told to.

        Raises:
            SystemExit: With code 75, in every process.
        """
        # An iteration-based loop resumed before a validation would skip it.
        if self._agree() and _has_updated(runner) and not _validates_next(runner):
            self._save_and_exit(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """Save and exit, validation to be done anew, if any process was told to.

        Raises:
            SystemExit: With code 75, in every process.
        """
        asked = (
            self._training and _has_updated(runner) and _is_common(runner, batch_idx)
        )
        if not (asked and self._agree()):
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # takes the averaged weights out again
        runner.message_hub.update_info(_VALIDATION_LEFT, True)
        self._save_and_exit(runner, runner.iter)

    # Beside MMEngine's CheckpointHook nobody else does.
    before_save_checkpoint = AtomicCheckpointHook.before_save_checkpoint

    def after_train(self, runner: Runner) -> None:
        """Listen no longer."""
        self._training = False
        if self._handlers:
            # In this order a signal that came meanwhile is spent on our handler.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)
            self._handlers = {}

    # Called by the loops of ctkd_mm.engine.loops.resumable_loops when a training fails.
    after_failure = after_train

    def _listen(self) -> None:
        def request(signum: int, frame: Any) -> None:
            self.requested = True

        self._handlers = {s: signal.signal(s, request) for s in SIGNALS}
        # Blocked in this thread, which workers inherit; a signal then reaches the
        # handler through another thread, or stays pending.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        atexit.register(_end_workers)

    def _agree(self) -> bool:
        pending = not signal.sigpending().isdisjoint(SIGNALS)
        request = torch.tensor(int(self.requested or pending))
        # In the training's own group. Beside NCCL, one of gloo would need hosts that
        # find each other's names, and its threads can change the exit code.
        dist.all_reduce(request, 'max')
        return bool(request)

    def _save_and_exit(self, runner: Runner, iteration: int) -> None:
        path = Path(runner.work_dir, PREEMPTED)
        save = dict(backend_args=ATOMIC, meta=dict(epoch=runner.epoch, iter=iteration))
        runner.save_checkpoint(runner.work_dir, PREEMPTED, **save)
        if dist.is_main_process():
            write_atomically(path.with_name('last_checkpoint'), str(path).encode())
            size = path.stat().st_size / 1e6
            runner.logger.info(
                f'Told to stop: saved {path}, {size:.1f} MB, after {iteration} '
                f'iterations; exiting with code {EXIT_CODE}. --resume continues from it'
            )
        # A launcher ends all when the first has exited: not before the save.
        dist.barrier()
        for signum in self._handlers:
            signal.signal(signum, signal.SIG_IGN)
        raise SystemExit(EXIT_CODE)


def _has_updated(runner: Runner) -> bool:
    """Whether no gradients are being accumulated, which no checkpoint holds."""
    return all(wrapper.should_update() for wrapper in optim_wrappers(runner))


def _is_common(runner: Runner, batch_idx: int) -> bool:
    """Whether every process validates a batch of this number: all must be asked."""
    if not dist.is_distributed():
        return True
    loader = runner.val_dataloader
    samples = len(loader.dataset) // dist.get_world_size()
    return batch_idx < samples // loader.batch_sampler.batch_size


def _validates_next(runner: Runner) -> bool:
    """Whether an iteration-based loop will validate after this iteration."""
    loop, done = runner.train_loop, runner.iter + 1
    if not isinstance(loop, IterBasedTrainLoop) or runner.val_loop is None:
        return False
    due = any(done % interval == 0 for interval in loop.dynamic_intervals)
    return done >= loop.val_begin and (due or done == loop.max_iters)


def _end_workers() -> None:
    """End the data loader's workers, which no longer heed the SIGTERM at exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's would complain
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
