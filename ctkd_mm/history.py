"""A log history that stops growing."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from .registry import HOOKS


@HOOKS.register_module()
class HistoryHook(Hook):
    """Keeps of every logged scalar only what the log can still ask for.

    MMEngine keeps all values since the first iteration, copies them at every update
    and stores them in every checkpoint: iterations and checkpoints get ever more
    expensive. Kept here are the last epoch's values, or the longest window of
    ``log_processor`` if that is longer; what is logged stays the same. A ``'global'``
    window in ``log_processor.custom_cfg`` needs them all, and gets them.

    Source: extends :class:`mmengine.hooks.Hook`; limits
    :class:`mmengine.logging.HistoryBuffer` by its own ``max_length``.
    """

    def before_train(self, runner: Runner) -> None:
        """Find the longest window."""
        processor = runner.log_processor
        windows = [cfg.get('window_size') for cfg in processor.custom_cfg]
        intervals = [h.interval for h in runner.hooks if isinstance(h, LoggerHook)]
        numbers = [w for w in windows if isinstance(w, int)]
        self.max_length = max(
            len(runner.train_dataloader), processor.window_size, *intervals, *numbers
        )
        self.keeps_all = 'global' in windows

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Limit every history, those that are new included."""
        if not self.keeps_all:
            for history in runner.message_hub.log_scalars.values():
                history.max_length = self.max_length
