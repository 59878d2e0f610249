"""The same initial weights for a student alone and in every pair."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ctkd_mm.engine.loops.seeded_data import seed_everything


@HOOKS.register_module()
class SameStartHook(Hook):
    """Seeds right before the weights are initialised.

    Building a teacher draws random numbers too: without it the student of a pair would
    start from other weights than the student alone, and a difference of the two would
    be no paired one.
    """

    def before_run(self, runner: Runner) -> None:
        """Seed as the run is seeded."""
        seed_everything(runner.seed)
