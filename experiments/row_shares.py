"""How much of the distillation loss is foreground, how much background."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RowSharesHook(Hook):
    """Logs the parts of ``loss_kd`` that foreground and background RoIs make.

        kd_foreground = loss_kd(rows of the foreground) · their number / number of rows

    Of a loss that is a mean over RoIs the two add up to ``distill.loss_kd``.
    """

    def before_train(self, runner: Runner) -> None:
        """Watch the loss, and the labels of the student's RoIs."""
        self.interval = runner.log_processor.window_size
        self.loss = runner.model.distiller.distill_losses['loss_kd']
        head = runner.model.student.roi_head.bbox_head
        self.background = head.num_classes
        self.seen = seen = {}

        # No methods: a copy of the loss must not copy this hook.
        def keep_logits(_: Any, args: tuple, kwargs: dict, output: Any) -> None:
            seen.update(args=args, kwargs=kwargs)

        def keep_labels(_: Any, args: tuple) -> None:
            seen['labels'] = args[1]

        self.loss.register_forward_hook(keep_logits, with_kwargs=True)
        head.loss_cls.register_forward_pre_hook(keep_labels)

    def after_train_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """Put both parts into the log, where it takes a line."""
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        logged = last or self.every_n_inner_iters(batch_idx, self.interval)
        if logged and 'args' not in self.seen:  # the distillation was stopped
            for name in ('foreground', 'background'):
                runner.message_hub.update_scalar(f'train/kd_{name}', 0)
        elif logged:
            loss = copy.deepcopy(self.loss)  # a temperature keeps its last tau
            loss._forward_hooks.clear()
            foreground = self.seen['labels'] < self.background
            rows = dict(foreground=foreground, background=~foreground)
            for name, mask in rows.items():
                args = [arg[mask] for arg in self.seen['args']]
                kwargs = {key: arg[mask] for key, arg in self.seen['kwargs'].items()}
                with torch.no_grad():
                    value = loss(*args, **kwargs) * mask.float().mean()
                runner.message_hub.update_scalar(f'train/kd_{name}', value)
        self.seen.clear()
