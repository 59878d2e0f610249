"""The curriculum: lambda, the temperature's strength, grows with progress."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

from .gradient_reversal import set_lambda
from .registry import HOOKS
from .temperature import Temperature, find_temperatures


def cosine_curriculum(
    epoch: int,
    end: int,
    begin: int = 0,
    lambda_min: float = 0.0,
    lambda_max: float = 1.0,
) -> float:
    """Lambda in the given epoch (or iteration): an easy start, then harder.

        progress = clip((epoch + 1 - begin) / (end - begin), 0, 1)
        lambda   = lambda_min + (lambda_max - lambda_min) (1 - cos(pi progress)) / 2

    A pure function of progress, so a resumed run needs no stored state.

    Args:
        epoch: Current epoch or iteration, counted from 0.
        end: From epoch ``end - 1`` on, lambda is ``lambda_max``.
        begin: Before this epoch, lambda is ``lambda_min``.
        lambda_min: Lambda before the ramp, >= 0.
        lambda_max: Lambda after the ramp, >= 0.

    Returns:
        Lambda, between ``lambda_min`` and ``lambda_max``.

    Raises:
        ValueError: If ``end`` is not after ``begin``.

    Source: CTKD, arXiv 2211.16231, and the authors' code, whose epochs count
    from 1 and whose lambda carries the minus that :class:`GradientReversal` has here.

    Example:
        >>> [round(cosine_curriculum(epoch, end=5), 4) for epoch in range(6)]
        [0.0955, 0.3455, 0.6545, 0.9045, 1.0, 1.0]
    """
    if end <= begin:
        raise ValueError(
            f'end must be > begin, got begin={begin}, end={end}: the ramp from '
            'lambda_min to lambda_max takes end - begin epochs or iterations'
        )
    progress = min(max((epoch + 1 - begin) / (end - begin), 0.0), 1.0)
    ramp = (1 - math.cos(math.pi * progress)) / 2
    return lambda_min + (lambda_max - lambda_min) * ramp


@HOOKS.register_module()
class CurriculumHook(Hook):
    """Sets lambda in the whole model by :func:`cosine_curriculum` and logs tau.

    Works wherever the loss sits in the model and under wrappers. Writes
    ``train/lambda`` and ``train/tau`` into the message hub whenever the
    ``LoggerHook`` is about to read it, and ``train/tau_min`` and ``train/tau_max``
    too for a temperature with a value for each sample; so the console, the JSON log
    and TensorBoard show them, and no other iteration waits for the device. With
    several temperatures in the model the keys are numbered, and the log says at the
    start which is which. What is logged is the first process's tau; a temperature of
    your own is logged if it extends :class:`ctkd_mm.temperature.Temperature`.

    Args:
        end: End of the ramp, in epochs or iterations.
        begin: Start of the ramp.
        by_epoch: Whether ``begin`` and ``end`` count epochs (the paper) or
            iterations.
        lambda_min: See :func:`cosine_curriculum`.
        lambda_max: See :func:`cosine_curriculum`.

    Raises:
        ValueError: If the range is empty or a lambda negative; before training, if
            ``by_epoch`` does not fit the training loop.
        RuntimeError: Before training, if the model has no ``GradientReversal``.

    Source: CTKD, arXiv 2211.16231; extends :class:`mmengine.hooks.Hook`.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        end: int,
        begin: int = 0,
        by_epoch: bool = True,
        lambda_min: float = 0.0,
        lambda_max: float = 1.0,
    ) -> None:
        if not all(0 <= value < math.inf for value in (lambda_min, lambda_max)):
            raise ValueError(
                'lambda_min and lambda_max must be >= 0 and finite (GradientReversal '
                f'carries the minus), got lambda_min={lambda_min}, '
                f'lambda_max={lambda_max}'
            )
        cosine_curriculum(0, end, begin)  # refuses an empty range at build time
        self.by_epoch = by_epoch
        self.schedule = dict(
            end=end, begin=begin, lambda_min=lambda_min, lambda_max=lambda_max
        )

    def before_train(self, runner: Runner) -> None:
        """Check that there is something to set, and find what to log."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'CurriculumHook(by_epoch=True) needs an epoch-based train_cfg, got '
                'IterBasedTrainLoop: set by_epoch=False and give end in iterations'
            )
        if not set_lambda(runner.model, self.schedule['lambda_min']):
            raise RuntimeError(
                'CurriculumHook found no GradientReversal in the model: give loss_kd a '
                "learnable temperature (type='ctkd_mm.CTKDLoss'), or drop the hook"
            )
        self.temperatures = _numbered_temperatures(runner)
        self.log_interval = next(
            (h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 1
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set lambda for the epoch."""
        if self.by_epoch:
            self._set(runner, runner.epoch)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Set lambda for the iteration."""
        if not self.by_epoch:
            self._set(runner, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Hand lambda and tau to the message hub when they will be read."""
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if not last and not self.every_n_inner_iters(batch_idx, self.log_interval):
            return
        hub = runner.message_hub
        hub.update_scalar('train/lambda', self.lambda_)
        for suffix, temperature in self.temperatures.items():
            for key, value in _tau_stats(temperature.tau).items():
                hub.update_scalar(f'train/{key}{suffix}', value)

    def _set(self, runner: Runner, progress: int) -> None:
        self.lambda_ = cosine_curriculum(progress, **self.schedule)
        set_lambda(runner.model, self.lambda_)


def _numbered_temperatures(runner: Runner) -> dict[str, Temperature]:
    """Map a log-key suffix, empty for a single one, to every temperature."""
    found = find_temperatures(runner.model)
    if len(found) == 1:
        return {'': next(iter(found.values()))}
    # Numbers, not names: LogProcessor averages every key with "loss" in it.
    for i, name in enumerate(found):
        runner.logger.info(f'tau.{i} is the temperature at {name}')
    return {f'.{i}': module for i, module in enumerate(found.values())}


def _tau_stats(tau: Tensor | None) -> dict[str, Tensor]:
    if tau is None or not tau.numel():  # no RoI in this step, or none so far
        return {}
    if tau.ndim == 1:
        return dict(tau=tau)
    return dict(tau=tau.mean(), tau_min=tau.min(), tau_max=tau.max())
