"""A start of a training that trains nothing."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .preflight import PreflightHook


def check(cfg: Config) -> list[str]:
    """Start a training and stop before its first iteration.

    Builds and checks all that ``Runner.train`` does, in a temporary work directory:
    whatever a training would refuse is refused here.

    Args:
        cfg: A complete config.

    Returns:
        What was found, a line each.

    Raises:
        Exception: What the training would have raised.
    """
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.work_dir, cfg.log_level = work_dir, 'WARNING'
        # MMEngine keeps one visualizer a name for the whole process.
        cfg.experiment_name, cfg.visualizer = Path(work_dir).name, None
        runner = Runner.from_cfg(cfg)
        hooks = [hook for hook in runner.hooks if isinstance(hook, PreflightHook)]
        if not hooks:
            hooks = [PreflightHook()]
            runner.register_hook(hooks[0])
        # After all checks, before PreemptionHook (100) takes the signals.
        runner.register_hook(_Stop(), priority=99)
        try:
            runner.train()
        except _Checked:
            return hooks[0].report
    raise RuntimeError('the training ended without calling before_train')


class _Checked(Exception):
    pass


class _Stop(Hook):
    def before_train(self, runner: Runner) -> None:
        raise _Checked
