from __future__ import annotations

import pytest
from helpers.logit_run import Distilled, make_runner
from helpers.run_logs import train_line, write_log
from mmengine.hooks import Hook, LoggerHook

from ctkd_mm import ConstantTemperature, CTKDLoss, GlobalTemperature
from ctkd_mm.analysis.doctor import doctor_hook, rules

DOCTOR = dict(type='ctkd_mm.TemperatureDoctorHook')
CURRICULUM = dict(type='ctkd_mm.CurriculumHook', end=2)

pytestmark = pytest.mark.start


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    # The toy trains for 24 iterations.
    monkeypatch.setattr(rules, 'FROZEN_ITERATIONS', 5)


def train(
    work_dir, model=None, hooks=(DOCTOR,), epochs=4, curriculum=CURRICULUM, **kwargs
):
    """Train with CurriculumHook and others, 6 iterations an epoch."""
    model = model or Distilled(GlobalTemperature())
    loop = dict(by_epoch=True, max_epochs=epochs)
    runner = make_runner(work_dir, model, curriculum, loop, **kwargs)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()


def told(work_dir, text):
    """What the log says of that, from all starts, as (level, rest) in order."""
    logs = sorted(work_dir.glob('*/*.log'))
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [line.split(' - mmengine - ')[1] for line in lines if text in line]


def test_it_warns_once_when_there_is_evidence_and_sums_up(tmp_path):
    train(tmp_path, epochs=6)
    (warning,) = told(tmp_path, 'tau is frozen')
    # Lambda is 0.5 in the first epoch, then 1: it takes the third to see.
    assert warning.startswith('WARNING')
    assert 'until epoch 3: 0.0' in warning
    assert 'optim_wrapper.paramwise_cfg.custom_keys' in warning
    (summary,) = told(tmp_path, 'temperature doctor: tau: frozen')
    assert summary.startswith('INFO')
    assert 'until epoch 6' in summary


def test_what_only_the_end_shows_is_warned_of_too(tmp_path):
    train(tmp_path, curriculum={**CURRICULUM, 'end': 60})
    (warning,) = told(tmp_path, 'tau is no ramp')
    assert warning.startswith('WARNING')
    assert told(tmp_path, 'temperature doctor: tau: no ramp')


class Kill(Hook):
    """Ends a training when its fourth epoch begins."""

    def before_train_epoch(self, runner):
        if runner.epoch == 3:
            raise KeyboardInterrupt


def test_a_resumed_run_is_judged_from_its_first_start_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, hooks=(DOCTOR, Kill()), epochs=6)
    train(tmp_path, epochs=6, resume=True)
    # Once in each start.
    seen = [warning.split('until ')[1] for warning in told(tmp_path, 'tau is frozen')]
    assert [text.split(':')[0] for text in seen] == ['epoch 3', 'epoch 4']


def test_a_fresh_start_forgets_another_run_in_its_work_dir(tmp_path):
    lines = [{**train_line(i, epoch=1, tau=1.0), 'lambda': 1.0} for i in range(1, 99)]
    write_log(tmp_path, '20000101_000000', lines)
    train(tmp_path, Distilled(GlobalTemperature(tau_start=3)), epochs=1)
    (summary,) = told(tmp_path, 'temperature doctor')
    assert 'tau went from 3 to' in summary


def test_a_resume_without_a_log_judges_from_there(tmp_path):
    train(tmp_path / 'a', epochs=2)
    checkpoint = str(tmp_path / 'a' / 'epoch_2.pth')
    train(tmp_path / 'b', load_from=checkpoint, resume=True)
    assert not told(tmp_path / 'b', 'frozen:')  # two epochs less a line
    assert told(tmp_path / 'b', 'too early to tell whether it is frozen')


def test_iterations_without_epochs_are_judged_too(tmp_path, monkeypatch):
    for module in (rules, doctor_hook):
        monkeypatch.setattr(module, 'ITERATIONS_PER_EPOCH', 4)
    model = Distilled(GlobalTemperature(tau_start=1.1))
    by_iter = {**CURRICULUM, 'by_epoch': False}
    runner = make_runner(tmp_path, model, by_iter, dict(by_epoch=False, max_iters=9))
    runner.register_hook(DOCTOR)
    runner.train()
    # At 4 there was half of such an epoch.
    (warning,) = told(tmp_path, 'tau is floor')
    assert 'until iteration 8' in warning
    assert told(tmp_path, 'temperature doctor: tau: floor')


def test_several_temperatures_are_judged_apart(tmp_path):
    class Two(Distilled):
        def forward(self, inputs, mode='loss'):
            losses = super().forward(inputs, mode)
            preds_T, preds_S = inputs.unbind(1)
            losses['loss_b'] = self.deep['b'](self.student(preds_S), preds_T)
            return losses

    model = Two(GlobalTemperature(tau_start=3))
    model.deep['b'] = CTKDLoss(GlobalTemperature(tau_start=1.1))
    model.deep['c'] = CTKDLoss(GlobalTemperature())
    train(tmp_path, model)
    assert told(tmp_path, 'temperature doctor: tau.0: frozen')
    assert told(tmp_path, 'temperature doctor: tau.1: floor')
    assert not told(tmp_path, 'doctor: tau.2')  # never ran


def test_it_judges_under_a_ddp_wrapper(tmp_path, one_process_group):
    cfg = dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel'))
    cfg['model_wrapper_cfg']['device_ids'] = None
    train(tmp_path, launcher='pytorch', cfg=cfg)
    assert told(tmp_path, 'temperature doctor: tau: frozen')


def test_without_a_json_log_it_warns_once_that_it_judges_nothing(tmp_path):
    model = Distilled(GlobalTemperature())
    runner = make_runner(tmp_path, model, CURRICULUM)
    # As default_hooks.logger=None leaves it.
    runner.hooks.remove(next(h for h in runner.hooks if isinstance(h, LoggerHook)))
    runner.register_hook(DOCTOR)
    runner.train()
    (warning,) = told(tmp_path, 'judges nothing')
    assert warning.startswith('WARNING')
    assert 'It needs default_hooks.logger' in warning


def test_without_a_learned_temperature_it_warns_that_it_judges_nothing(tmp_path):
    log = dict(type='ctkd_mm.TemperatureLogHook')
    train(tmp_path, Distilled(ConstantTemperature(3)), epochs=1, curriculum=log)
    (warning,) = told(tmp_path, 'judges nothing')
    assert 'a learned temperature in the loss' in warning
