"""What changes with training progress: lambda, the temperature's strength."""

from __future__ import annotations

from typing import Any

from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

from ctkd_mm.engine.hooks.temperature_log_hook import TemperatureLogHook
from ctkd_mm.models.temperatures.gradient_reversal import set_lambda
from ctkd_mm.models.temperatures.ramps import cosine_curriculum, progress
from ctkd_mm.models.temperatures.scheduled import set_progress
from ctkd_mm.registry import HOOKS


class RampHook(TemperatureLogHook):
    """What every hook shares that sets something from progress; :meth:`set` differs.

    Args:
        end: End of the ramp, in epochs or iterations.
        begin: Start of the ramp.
        by_epoch: Whether ``begin`` and ``end`` count epochs (the paper) or
            iterations.

    Attributes:
        nothing_to_set: What to say of a model that has nothing to set.

    Raises:
        ValueError: If the range is empty; before training, if ``by_epoch`` does not
            fit the training loop.
        RuntimeError: Before training, if the model has nothing to set.
    """

    nothing_to_set: str

    def __init__(self, end: int, begin: int = 0, by_epoch: bool = True) -> None:
        progress(0, end, begin)  # refuses an empty range at build time
        self.end = end
        self.begin = begin
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Check that progress can be counted, and that there is something to set."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                f'{type(self).__name__}(by_epoch=True) needs an epoch-based train_cfg, '
                'got IterBasedTrainLoop: set by_epoch=False and give end in iterations'
            )
        super().before_train(runner)
        if not self.set(runner, 0):
            raise RuntimeError(self.nothing_to_set)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set what the epoch wants."""
        if self.by_epoch:
            self.set(runner, runner.epoch)

    def before_train_iter(self, runner: Runner, **_: Any) -> None:
        """Set what the iteration wants."""
        if not self.by_epoch:
            self.set(runner, runner.iter)

    def set(self, runner: Runner, epoch: int) -> int:
        """Set it for an epoch (or iteration), counted from 0; return in how many."""
        raise NotImplementedError


@HOOKS.register_module()
class CurriculumHook(RampHook):
    """Sets lambda in the whole model by :func:`cosine_curriculum` and logs it with tau.

    Writes ``train/lambda`` beside what :class:`TemperatureLogHook` writes.

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

    nothing_to_set = (
        'CurriculumHook found no GradientReversal in the model: give loss_kd a '
        "learnable temperature (type='ctkd_mm.CTKDLoss'), or drop the hook"
    )

    def __init__(
        self,
        end: int,
        begin: int = 0,
        by_epoch: bool = True,
        lambda_min: float = 0.0,
        lambda_max: float = 1.0,
    ) -> None:
        super().__init__(end, begin, by_epoch)
        self.bounds = dict(lambda_min=lambda_min, lambda_max=lambda_max)
        cosine_curriculum(0, end, begin, **self.bounds)  # refuses a negative lambda

    def set(self, runner: Runner, epoch: int) -> int:
        """Set lambda."""
        self.lambda_ = cosine_curriculum(epoch, self.end, self.begin, **self.bounds)
        return set_lambda(runner.model, self.lambda_)

    def scalars(self) -> dict[str, float | Tensor]:
        """Lambda and every tau."""
        return {'lambda': self.lambda_, **super().scalars()}


@HOOKS.register_module()
class TemperatureScheduleHook(RampHook):
    """Sets progress in the whole model and logs tau.

    Progress: :func:`ctkd_mm.models.temperatures.ramps.progress`.

    Args:
        end: End of the schedule, in epochs or iterations.
        begin: Start of the schedule.
        by_epoch: Whether ``begin`` and ``end`` count epochs or iterations.

    Raises:
        ValueError: If the range is empty; before training, if ``by_epoch`` does not
            fit the training loop.
        RuntimeError: Before training, if no temperature of the model is scheduled.
    """

    nothing_to_set = (
        'TemperatureScheduleHook found no scheduled temperature in the model: '
        "give loss_kd one (type='ctkd_mm.LinearTemperature'), or drop the hook"
    )

    def set(self, runner: Runner, epoch: int) -> int:
        """Set progress."""
        return set_progress(runner.model, progress(epoch, self.end, self.begin))
