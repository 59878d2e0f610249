"""Starts a training, and stops it before its first iteration."""

from __future__ import annotations

import copy
import io
import tempfile
from contextlib import closing, redirect_stdout, suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ctkd_mm.checks.preflight_hook import PreflightHook
from ctkd_mm.utils.config import bare


class Stopped(Exception):
    """Ends a start, see :func:`start`."""


class _StopHook(Hook):
    def before_train(self, runner: Runner) -> None:
        raise Stopped


def start(cfg: Config) -> Runner:
    """Start a training and stop it before its first iteration, after all checks.

    Builds and checks, in a temporary work directory, all that ``Runner.train`` does.

    Args:
        cfg: A complete config; unchanged.

    Returns:
        The runner; it has a :class:`ctkd_mm.checks.preflight_hook.PreflightHook`.

    Raises:
        Exception: What the training would have raised.
    """
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.work_dir, cfg.log_level = work_dir, 'WARNING'
        # MMEngine keeps one visualizer a name for the whole process.
        cfg.experiment_name = Path(work_dir).name
        visualizer = cfg.get('visualizer') or {}
        # A tracker's would open a run there.
        backends = visualizer.get('vis_backends') or ()
        local = [b for b in backends if bare(b['type']) == 'LocalVisBackend']
        visualizer.update(
            name=cfg.experiment_name, save_dir=work_dir, vis_backends=local
        )
        if not cfg.get('load_from'):
            cfg.resume = False  # what is to be resumed lies elsewhere
        runner = RUNNERS.build(cfg)  # as MMDetection's tools/train.py, if runner_type
        if not any(isinstance(found, PreflightHook) for found in runner.hooks):
            runner.register_hook(PreflightHook())
        # After all checks, before PreemptionHook (100) takes the signals.
        runner.register_hook(_StopHook(), priority=99)
        # pycocotools prints its progress. The log keeps the stream that it has.
        quiet = redirect_stdout(io.StringIO())
        with closing(runner.visualizer), suppress(Stopped), quiet:
            runner.train()
    return runner


def check(cfg: Config) -> list[str]:
    """Start a training and stop before its first iteration; see :func:`start`.

    Args:
        cfg: A complete config.

    Returns:
        What was found, a line each.

    Raises:
        Exception: What the training would have raised.
    """
    hooks = start(cfg).hooks
    return next(hook.report for hook in hooks if isinstance(hook, PreflightHook))
