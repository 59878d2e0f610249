"""The temperature doctor, in the training."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn

from ctkd_mm.analysis.doctor.diagnose import diagnose, of_temperature
from ctkd_mm.analysis.doctor.rules import ITERATIONS_PER_EPOCH, Finding
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.engine.hooks.temperature_log_hook import TemperatureLogHook
from ctkd_mm.models.temperatures.learned import LearnedTemperature
from ctkd_mm.registry import HOOKS

KEPT = ('tau', 'tau_min', 'tau_slope', 'lambda')


@HOOKS.register_module()
class TemperatureDoctorHook(TemperatureLogHook):
    """Warns of what is wrong with a learnable temperature.

    The rules are those of :mod:`ctkd_mm.analysis.doctor.diagnose`.

    Whenever the ``LoggerHook`` is about to read it, writes ``train/tau_slope`` into the
    message hub: the sign (1, 0 or -1) of the loss's slope in tau, which the reversal
    has not touched; not for a temperature with a value for each sample. So the log
    tells whether tau climbs. No other iteration is looked at, no gradient is changed.
    When an epoch has begun (after every 5000 iterations where there are no epochs) all
    that was logged is diagnosed, at the end of the training once more, and each verdict
    warned of once; then the log has a summary. A resumed run goes on from the JSON log
    in its work directory. Tau and slope are the first process's.

    Beside it, :class:`ctkd_mm.CurriculumHook` logs tau and lambda.

    Raises:
        RuntimeError: Before training, if the model has no learnable temperature.

    Source: extends :class:`TemperatureLogHook`.
    """

    # After the hooks that hand tau and lambda to the message hub, before LoggerHook.
    priority = 55

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Find the temperatures, and what a resumed run has logged of them."""
        self._release()
        super().before_train(runner)
        self.temperatures = {
            suffix: temperature
            for suffix, temperature in self.temperatures.items()
            if isinstance(temperature, LearnedTemperature)
        }
        if not self.temperatures:
            raise RuntimeError(
                'TemperatureDoctorHook found no learnable temperature in the model: '
                "give loss_kd one (type='ctkd_mm.CTKDLoss'; your own must extend "
                'ctkd_mm.models.temperatures.learned.LearnedTemperature), or drop '
                'the hook'
            )
        self.lines = _logged(runner) if runner.iter else []
        self.epoch = _epoch(self.lines[-1]) if self.lines else 0
        judged = _judged(self.lines)
        self.warned = {(s, f.verdict) for s, f in self._findings(judged, ended=False)}

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Watch the slope of an iteration that will be logged."""
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if last or self.every_n_inner_iters(batch_idx, self.log_interval):
            self.slopes = {suffix: [] for suffix in self.temperatures}
            self.handles = [
                temperature.register_forward_hook(
                    partial(_keep_slope, self.slopes[suffix])
                )
                for suffix, temperature in self.temperatures.items()
            ]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Log the slopes; diagnose when an epoch has begun."""
        if not self.handles:
            return
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._release()
        self.lines.append(_line(runner))
        epoch = _epoch(self.lines[-1])
        if epoch > self.epoch:
            self.epoch = epoch
            self._warn(runner, self._findings(self.lines, ended=False))

    def scalars(self) -> dict[str, float | Tensor]:
        """The sign of the slope in every tau of one value, 0 where there was none."""
        return {
            f'tau_slope{suffix}': _sign(self.slopes[suffix])
            for suffix, temperature in self.temperatures.items()
            if temperature.tau is not None and temperature.tau.ndim == 1
        }

    def after_train(self, runner: Runner) -> None:
        """Warn of what is new, and sum up."""
        self._release()
        findings = self._findings(self.lines, ended=True)
        self._warn(runner, findings)
        for suffix, finding in findings:
            advice = f'. {finding.advice}' if finding.advice else ''
            runner.logger.info(
                f'temperature doctor: tau{suffix}: {finding.verdict}: '
                f'{finding.seen}{advice}'
            )

    def after_failure(self, runner: Runner) -> None:
        """Stop watching; called by :mod:`ctkd_mm.engine.loops.resumable_loops`."""
        self._release()

    def _warn(self, runner: Runner, findings: list[tuple[str, Finding]]) -> None:
        for suffix, finding in findings:
            if (suffix, finding.verdict) not in self.warned and finding.advice:
                self.warned.add((suffix, finding.verdict))
                runner.logger.warning(
                    f'tau{suffix} is {finding.verdict}: {finding.seen}. '
                    f'{finding.advice}'
                )

    def _findings(self, lines: list[dict], ended: bool) -> list[tuple[str, Finding]]:
        found = []
        for suffix, temperature in self.temperatures.items():
            own = of_temperature(lines, suffix)
            bounds = temperature.tau_init, temperature.tau_range
            if own:  # else it never ran
                found += [(suffix, f) for f in diagnose(own, *bounds, ended=ended)]
        return found

    def _release(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []


def _keep_slope(slopes: list, module: nn.Module, args: tuple, tau: Tensor) -> None:
    if tau.requires_grad:
        # Downstream of the reversal, so this is the loss's own slope.
        tau.register_hook(lambda grad: slopes.append(grad.detach().sum()))


def _sign(slopes: list[Tensor]) -> float | Tensor:
    # Loss scaling multiplies a slope, and may overflow it; its sign stays.
    return torch.stack(slopes).sum().sign().nan_to_num() if slopes else 0.0


def _kept(key: str) -> bool:
    return key.split('.')[0] in KEPT


def _line(runner: Runner) -> dict[str, float]:
    """What the log of this iteration will have, as far as it matters here."""
    scalars = {
        key[len('train/') :]: history.current()
        for key, history in runner.message_hub.log_scalars.items()
        if key.startswith('train/')
    }
    line = {key: float(value) for key, value in scalars.items() if _kept(key)}
    line['step'] = runner.iter + 1
    if not isinstance(runner.train_loop, IterBasedTrainLoop):
        line['epoch'] = runner.epoch + 1
    return line


def _logged(runner: Runner) -> list[dict[str, float]]:
    """What earlier starts of this run have logged."""
    try:
        lines = read_scalars(runner.work_dir)
    except FileNotFoundError:  # resumed from another work directory
        return []
    # Of an iteration-based training every line may say epoch 1.
    by_iter = isinstance(runner.train_loop, IterBasedTrainLoop)
    keys = ('step',) if by_iter else ('step', 'epoch')
    return [
        {k: v for k, v in line.items() if k in keys or _kept(k)}
        for line in lines
        if line['step'] <= runner.iter
    ]


def _judged(lines: list[dict]) -> list[dict]:
    """The lines that there were when the last epoch had begun."""
    epochs = [_epoch(line) for line in lines]
    return lines[: epochs.index(epochs[-1]) + 1] if lines else []


def _epoch(line: dict) -> int:
    return line.get('epoch', line['step'] // ITERATIONS_PER_EPOCH)
