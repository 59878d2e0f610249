"""Temperatures that follow training progress, with nothing learned."""

from __future__ import annotations

from torch import Tensor, nn

from ctkd_mm.models.temperatures.base import Temperature, check_tau
from ctkd_mm.models.temperatures.ramps import half_cosine
from ctkd_mm.registry import MODELS


class ScheduledTemperature(Temperature):
    """Base class of temperatures between two ends; :meth:`ramp` may differ.

        tau = tau_begin + (tau_end - tau_begin) · ramp(progress)

    ``progress`` is a plain attribute, not part of the state dict: a resumed run sets
    it anew.

    Args:
        tau_begin: Temperature at progress 0, > 0: before the first epoch, in which
            progress is 1 / (end - begin) already, as lambda's is.
        tau_end: Temperature at progress 1, > 0.

    Attributes:
        progress: Between 0 and 1; None until :func:`set_progress` sets it.

    Raises:
        ValueError: If a temperature is not positive and finite.
    """

    def __init__(self, tau_begin: float, tau_end: float) -> None:
        super().__init__()
        self.tau_begin = check_tau('tau_begin', tau_begin)
        self.tau_end = check_tau('tau_end', tau_end)
        self.progress: float | None = None

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (1,), on the student's device and in its dtype.

        Raises:
            RuntimeError: If nothing has set ``progress``.
        """
        if self.progress is None:
            raise RuntimeError(
                f'{type(self).__name__} has no progress: add '
                "dict(type='ctkd_mm.TemperatureScheduleHook', end=5) to custom_hooks, "
                'or call set_progress() in a loop of your own'
            )
        step = (self.tau_end - self.tau_begin) * self.ramp(self.progress)
        return self.keep(preds_S.new_full((1,), self.tau_begin + step))

    @staticmethod
    def ramp(progress: float) -> float:
        """Map progress to a share of the way from ``tau_begin`` to ``tau_end``."""
        return progress


@MODELS.register_module()
class LinearTemperature(ScheduledTemperature):
    """From one temperature to another in a straight line: ``ramp(p) = p``.

    Args: see :class:`ScheduledTemperature`.

    Source: ours, as a rival of CTKD that learns nothing. A. Jafari et al., *Annealing
    Knowledge Distillation*, 2021, arXiv 2104.07163, lowers the temperature likewise.

    Example:
        >>> temperature = LinearTemperature(tau_begin=6, tau_end=2)
        >>> set_progress(temperature, 0.25)
        1
        >>> temperature(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([5.])
    """


@MODELS.register_module()
class CosineTemperature(ScheduledTemperature):
    """From one temperature to another along half a cosine.

        ramp(p) = (1 - cos(pi p)) / 2

    Args: see :class:`ScheduledTemperature`.

    Source: ours: the ramp that CTKD, arXiv 2211.16231, gives lambda.

    Example:
        >>> temperature = CosineTemperature(tau_begin=6, tau_end=2)
        >>> set_progress(temperature, 0.5)
        1
        >>> temperature(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([4.])
    """

    ramp = staticmethod(half_cosine)


def set_progress(module: nn.Module, value: float) -> int:
    """Set the progress of every scheduled temperature below a module.

    Args:
        module: Any module; a whole model or wrapped model is fine.
        value: The new ``progress``, between 0 and 1.

    Returns:
        How many were set.

    Example:
        >>> loss_kd = CTKDLoss(LinearTemperature(tau_begin=6, tau_end=2))
        >>> set_progress(loss_kd, 0.25)
        1
    """
    found = [m for m in module.modules() if isinstance(m, ScheduledTemperature)]
    for temperature in found:
        temperature.progress = value
    return len(found)
