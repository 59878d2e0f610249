"""Logs every temperature of the model."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from torch import Tensor

from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.registry import HOOKS


@HOOKS.register_module()
class TemperatureLogHook(Hook):
    """Logs the temperatures of the whole model, learnable or not.

    Works wherever the loss sits in the model and under wrappers. Writes ``train/tau``
    into the message hub whenever the ``LoggerHook`` is about to read it, and
    ``train/tau_min`` and ``train/tau_max`` too for a temperature with a value for each
    sample; so the console, the JSON log and TensorBoard show them, and no other
    iteration waits for the device. Two temperatures for the two models have the keys
    ``train/tau.S`` and ``train/tau.T``, and so on. With several temperatures in the
    model the keys are numbered, and the log says at the start which is which. What is
    logged is the first process's tau; a temperature of your own is logged if it extends
    :class:`ctkd_mm.models.temperatures.base.Temperature`.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    def before_train(self, runner: Runner) -> None:
        """Find what to log, and when."""
        found = find_temperatures(runner.model)
        # Numbers, not names: LogProcessor averages every key with "loss" in it.
        several = len(found) > 1
        suffixes = [f'.{i}' for i in range(len(found))] if several else ['']
        self.temperatures = dict(zip(suffixes, found.values()))
        loggers = [h for h in runner.hooks if isinstance(h, TemperatureLogHook)]
        if several and loggers[:1] == [self]:
            for suffix, name in zip(suffixes, found):
                runner.logger.info(f'tau{suffix} is the temperature at {name}')
        intervals = [h.interval for h in runner.hooks if isinstance(h, LoggerHook)]
        self.log_interval = intervals[0] if intervals else 1

    def after_train_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """Hand the scalars to the message hub when they will be read."""
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if last or self.every_n_inner_iters(batch_idx, self.log_interval):
            for key, value in self.scalars().items():
                runner.message_hub.update_scalar(f'train/{key}', value)

    def scalars(self) -> dict[str, float | Tensor]:
        """What to log now, by its key."""
        stats: dict[str, float | Tensor] = {}
        for suffix, temperature in self.temperatures.items():
            stats.update(_tau_stats(temperature.tau, suffix))
        return stats


def _tau_stats(tau: Tensor | None, suffix: str) -> dict[str, Tensor]:
    if tau is None or not tau.numel():  # no RoI in this step, or none so far
        return {}
    if tau.ndim == 1:
        return {f'tau{suffix}': tau}
    if tau.size(1) == 2:
        student, teacher = tau.split(1, dim=1)
        of_student = _tau_stats(student, f'{suffix}.S')
        return {**of_student, **_tau_stats(teacher, f'{suffix}.T')}
    stats = dict(tau=tau.mean(), tau_min=tau.min(), tau_max=tau.max())
    return {f'{key}{suffix}': value for key, value in stats.items()}
