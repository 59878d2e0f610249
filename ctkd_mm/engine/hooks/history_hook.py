"""Limits MMEngine's history of logged values, which grows with every iteration."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from ctkd_mm.registry import HOOKS


@HOOKS.register_module()
class HistoryHook(Hook):
    """Keeps of every logged scalar only what the log can still ask for.

    MMEngine keeps all values since the first iteration, copies them at every update
    and stores them in every checkpoint: iterations and checkpoints get ever more
    expensive. Kept here is the longest window of ``log_processor``, an epoch where it
    asks for one, as it does for times of a validation; what is logged stays the same. A
    ``'global'`` window in ``log_processor.custom_cfg``, or none, needs all values, and
    gets them.

    Source: extends :class:`mmengine.hooks.Hook`; limits
    :class:`mmengine.logging.HistoryBuffer` by its own ``max_length``.
    """

    def before_train(self, runner: Runner) -> None:
        """Find the longest windows."""
        processor = runner.log_processor
        windows = [cfg.get('window_size') for cfg in processor.custom_cfg]
        intervals = [h.interval for h in runner.hooks if isinstance(h, LoggerHook)]
        numbers = [w for w in windows if isinstance(w, int)]
        self.max_length = max([processor.window_size, *intervals, *numbers])
        if 'epoch' in windows:
            self.max_length = max(self.max_length, len(runner.train_dataloader))
        # The times of a validation are logged as their mean over all of it.
        batches = 0 if runner.val_loop is None else len(runner.val_dataloader)
        self.max_validated = max(self.max_length, batches)
        self.keeps_all = not {'global', None}.isdisjoint(windows)

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        """Limit every history, those that are new included."""
        if not self.keeps_all:
            for key, history in runner.message_hub.log_scalars.items():
                trained = key.startswith('train/')
                history.max_length = self.max_length if trained else self.max_validated
