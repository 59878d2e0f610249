"""The hook that judges temperatures while a training runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ctkd_mm.analysis.doctor.diagnose import diagnose_each
from ctkd_mm.analysis.doctor.rules import ITERATIONS_PER_EPOCH
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.models.temperatures.learned import LearnedTemperature
from ctkd_mm.registry import HOOKS


@HOOKS.register_module()
class TemperatureDoctorHook(Hook):
    """Warns of what is wrong with a learnable temperature.

    The rules are those of :mod:`ctkd_mm.analysis.doctor.diagnose`. After each epoch
    (after every 5000 iterations where there are no epochs) the first process reads
    what ``LoggerHook`` has written to ``scalars.json`` and judges it. It warns of each
    verdict once; at the end of the training it writes a summary. A resumed run goes on
    from the logs in its work directory.

    It needs ``LoggerHook`` and a ``LocalVisBackend``, both defaults of MMEngine,
    :class:`ctkd_mm.CurriculumHook`, which logs tau and lambda, and a temperature that
    extends :class:`LearnedTemperature`. Where one of them is missing it warns of that.
    """

    priority = 'LOW'  # after LoggerHook, which writes what is read here

    def before_train(self, runner: Runner) -> None:
        """Find the temperatures and the log."""
        found = find_temperatures(runner.model)
        self.bounds = {
            '' if len(found) == 1 else f'.{i}': (one.tau_init, one.tau_range)
            for i, one in enumerate(found.values())
            if isinstance(one, LearnedTemperature)
        }
        # Beside a fresh start the work directory may hold the logs of another run.
        fresh = Path(runner.log_dir, 'vis_data', 'scalars.json')
        self.log = runner.work_dir if runner.iter else fresh
        self.warned: set[str] = set()
        self.by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Judge where there are no epochs."""
        if not self.by_epoch and self.every_n_train_iters(runner, ITERATIONS_PER_EPOCH):
            self._judge(runner, ended=False)

    def after_train_epoch(self, runner: Runner) -> None:
        """Judge what has been logged so far."""
        self._judge(runner, ended=False)

    def after_train(self, runner: Runner) -> None:
        """Judge once more, and sum up."""
        self._judge(runner, ended=True)

    @master_only
    def _judge(self, runner: Runner, ended: bool) -> None:
        lines: list[dict] = []
        with suppress(FileNotFoundError):
            lines = read_scalars(self.log)
        found = diagnose_each(lines, self.bounds, self.by_epoch, ended)
        warnings = {}
        if not found:
            warnings['TemperatureDoctorHook judges nothing'] = (
                f'{self.log} has no learned tau. It needs default_hooks.logger, '
                'LocalVisBackend, CurriculumHook and a learned temperature in the loss'
            )
        for suffix, findings in found.items():
            for finding in findings:
                verdict, name = finding.verdict, f'tau{suffix}'
                text = f'{finding.seen}. {finding.advice}'.rstrip('. ')
                if finding.advice:
                    warnings[f'{name} is {verdict}'] = text
                if ended:
                    runner.logger.info(f'temperature doctor: {name}: {verdict}: {text}')
        for what in sorted(warnings.keys() - self.warned):
            runner.logger.warning(f'{what}: {warnings[what]}')
        self.warned.update(warnings)
