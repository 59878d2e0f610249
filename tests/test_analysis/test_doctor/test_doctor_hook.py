from __future__ import annotations

import copy

import pytest
import torch
from helpers.logit_run import Distilled, make_runner
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from test_engine.test_hooks.test_finite_hook import SCALING, Scenes

from ctkd_mm import (
    ConstantTemperature,
    CTKDLoss,
    GlobalTemperature,
    InstanceTemperature,
    kd_kl_div,
    set_lambda,
)
from ctkd_mm.analysis.doctor import rules as doctor_rules
from ctkd_mm.analysis.doctor.diagnose import diagnose
from ctkd_mm.analysis.doctor.doctor_hook import TemperatureDoctorHook
from ctkd_mm.analysis.run_log import read_scalars

DOCTOR = dict(type='ctkd_mm.TemperatureDoctorHook')
CURRICULUM = dict(type='ctkd_mm.CurriculumHook', end=2)


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    # The toy trains for 24 iterations.
    monkeypatch.setattr(doctor_rules, 'FROZEN_ITERATIONS', 5)


class Sabotage(Hook):
    """Turns the reversal round, after CurriculumHook has set it."""

    priority = 'LOW'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        set_lambda(runner.model, -1.0)


def train(work_dir, model, hooks=(DOCTOR,), epochs=4, wrapper=None, **kwargs):
    """Train with CurriculumHook and others; return the runner."""
    loop = dict(by_epoch=True, max_epochs=epochs)
    runner = make_runner(work_dir, model, CURRICULUM, loop, **kwargs)
    runner.optim_wrapper.update(wrapper or {})
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def doctor(runner):
    (hook,) = (h for h in runner.hooks if isinstance(h, TemperatureDoctorHook))
    return hook


def told(work_dir, text):
    """What the log says of that, from all starts, as (level, rest) in order."""
    logs = sorted(work_dir.glob('*/*.log'))
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [line.split(' - mmengine - ')[1] for line in lines if text in line]


def verdicts(work_dir):
    return [f.verdict for f in diagnose(read_scalars(work_dir), 1, 20)]


class Differentiated(Distilled):
    """Knows the slope of its loss in tau from differences."""

    def __init__(self, temperature):
        super().__init__(temperature)
        self.slopes = []

    def forward(self, inputs, mode='loss'):
        preds_T, preds_S = inputs.unbind(1)
        losses = super().forward(inputs, mode)
        with torch.no_grad():
            tau = self.deep['loss'].temperature.tau
            logits = self.student(preds_S).double(), preds_T.double()
            up, down = (kd_kl_div(*logits, tau.double() + d) for d in (1e-3, -1e-3))
            self.slopes.append(float((up - down).sign()))
        return losses


def test_the_slope_is_that_of_the_loss_whatever_lambda_is(tmp_path):
    for name, hooks in dict(a=[DOCTOR], b=[DOCTOR, Sabotage()]).items():
        model = Differentiated(GlobalTemperature(tau_start=3))
        train(tmp_path / name, model, hooks)
        got = [line['tau_slope'] for line in read_scalars(tmp_path / name)]
        assert got == model.slopes[1::2]  # logged every second iteration
        assert {-1, 1} == set(got)


@pytest.mark.parametrize(
    'wrapper',
    [
        dict(accumulative_counts=4),
        pytest.param(
            dict(
                type='ctkd_mm.CPUAmpOptimWrapper', loss_scale=dict(init_scale=2.0**70)
            ),
            marks=SCALING,
        ),
    ],
    ids=['accumulation', 'loss scaling'],
)
def test_the_slopes_sign_survives(tmp_path, wrapper):
    model = Differentiated(GlobalTemperature(tau_start=3))
    train(tmp_path, model, wrapper=wrapper, epochs=1)
    assert [line['tau_slope'] for line in read_scalars(tmp_path)] == model.slopes[1::2]


def test_no_other_iteration_is_looked_at(tmp_path):
    runner = train(tmp_path, Distilled(GlobalTemperature()))
    # 24 iterations, logged every second.
    assert len(runner.message_hub.get_scalar('train/tau_slope').data[0]) == 12
    assert not runner.model.deep['loss'].temperature._forward_hooks


def test_the_training_is_the_same_bit_by_bit(tmp_path):
    states = []
    for name, hooks in dict(without=(), beside=(DOCTOR,)).items():
        model = Distilled(GlobalTemperature(tau_start=3))
        train(tmp_path / name, model, hooks)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any('raw_tau' in key for key in states[0])


def test_a_sabotaged_reversal_descends_and_a_sound_one_does_not(tmp_path):
    for name, hooks in dict(sound=[DOCTOR], bad=[DOCTOR, Sabotage()]).items():
        model = Distilled(GlobalTemperature(tau_start=3))
        # Enough for a hundredth of the range.
        model.deep['loss'].loss_weight = 30
        train(tmp_path / name, model, hooks, epochs=12)
    assert 'descending' in verdicts(tmp_path / 'bad')
    assert 'descending' not in verdicts(tmp_path / 'sound')
    (warning,) = [t for t in told(tmp_path / 'bad', 'tau is desc') if 'WARN' in t]
    assert 'The reversal is missing or has the wrong sign' in warning
    assert not told(tmp_path / 'sound', 'descending')


def test_it_warns_once_when_there_is_evidence_and_sums_up(tmp_path):
    train(tmp_path, Distilled(GlobalTemperature()), epochs=6)
    (warning,) = told(tmp_path, 'tau is frozen')
    # Lambda is 0.5 in the first epoch, then 1: it takes the fourth to see.
    assert warning.startswith('WARNING')
    assert 'until epoch 4: 0.0' in warning
    assert 'optim_wrapper.paramwise_cfg.custom_keys' in warning
    (summary,) = told(tmp_path, 'temperature doctor: tau: frozen')
    assert summary.startswith('INFO')
    assert 'until epoch 6' in summary


def test_what_only_the_end_shows_is_warned_of_too(tmp_path):
    train(tmp_path / 'frozen', Distilled(GlobalTemperature()), epochs=3)
    (warning,) = told(tmp_path / 'frozen', 'tau is frozen')
    assert warning.startswith('WARNING') and 'until epoch 3' in warning
    slow = {**CURRICULUM, 'end': 60}
    loop = dict(by_epoch=True, max_epochs=4)
    runner = make_runner(tmp_path, Distilled(GlobalTemperature()), slow, loop)
    runner.register_hook(DOCTOR)
    runner.train()
    (warning,) = told(tmp_path, 'tau is no ramp')
    assert warning.startswith('WARNING')


class Kill(Hook):
    """Ends a training when its fourth epoch begins."""

    def before_train_epoch(self, runner):
        if runner.epoch == 3:
            raise KeyboardInterrupt


def test_what_a_killed_run_had_no_time_to_warn_of_is_warned_of(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Distilled(GlobalTemperature()), (DOCTOR, Kill()), epochs=6)
    assert not told(tmp_path, 'tau is frozen')
    train(tmp_path, Distilled(GlobalTemperature()), epochs=6, resume=True)
    (warning,) = told(tmp_path, 'tau is frozen')
    assert 'until epoch 4' in warning


def test_a_resumed_run_knows_what_was_logged_and_warned_of(tmp_path):
    straight = train(tmp_path / 'a', Distilled(GlobalTemperature()), epochs=6)
    for epochs in (2, 5, 6):
        model = Distilled(GlobalTemperature())
        resumed = train(tmp_path / 'b', model, epochs=epochs, resume=epochs > 2)
    assert doctor(resumed).lines == doctor(straight).lines
    assert len(told(tmp_path / 'b', 'tau is frozen')) == 1


def test_a_fresh_start_forgets_another_run_in_its_work_dir(tmp_path):
    for _ in range(2):
        runner = train(tmp_path, Distilled(GlobalTemperature()), epochs=1)
    assert [line['step'] for line in doctor(runner).lines] == [2, 4, 6]


def test_a_resume_without_a_log_judges_from_there(tmp_path):
    train(tmp_path / 'a', Distilled(GlobalTemperature()), epochs=2)
    runner = train(
        tmp_path / 'b',
        Distilled(GlobalTemperature()),
        load_from=str(tmp_path / 'a' / 'epoch_2.pth'),
        resume=True,
    )
    assert [line['step'] for line in doctor(runner).lines] == [14, 16, 18, 20, 22, 24]
    assert not told(tmp_path / 'b', 'frozen:')  # two epochs less a line
    assert told(tmp_path / 'b', 'too early to tell whether it is frozen')


def test_iterations_without_epochs_are_judged_too(tmp_path):
    runner = make_runner(
        tmp_path,
        Distilled(GlobalTemperature()),
        {**CURRICULUM, 'by_epoch': False},
        dict(by_epoch=False, max_iters=9),
    )
    runner.register_hook(DOCTOR)
    runner.train()
    assert [line['step'] for line in doctor(runner).lines] == [2, 4, 6, 8]
    assert 'epoch' not in doctor(runner).lines[0]
    assert told(tmp_path, 'temperature doctor: tau: healthy')


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
    assert {'tau_slope.0', 'tau_slope.1'} <= read_scalars(tmp_path)[-1].keys()


def test_of_a_temperature_for_each_sample_no_slope_is_logged(tmp_path):
    train(tmp_path, Distilled(InstanceTemperature(4)))
    assert 'tau_slope' not in read_scalars(tmp_path)[-1]
    assert told(tmp_path, 'Not checked: whether tau climbs')


def test_it_works_under_a_ddp_wrapper(tmp_path, one_process_group):
    model = Differentiated(GlobalTemperature(tau_start=3))
    ddp = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg = dict(model_wrapper_cfg=ddp)
    runner = train(tmp_path, model, launcher='pytorch', cfg=cfg)
    assert isinstance(runner.model, MMDistributedDataParallel)
    assert [line['tau_slope'] for line in read_scalars(tmp_path)] == model.slopes[1::2]


def test_a_model_without_a_learnable_temperature_is_refused(tmp_path):
    log = dict(type='ctkd_mm.TemperatureLogHook')
    runner = make_runner(tmp_path, Distilled(ConstantTemperature(3)), log)
    runner.register_hook(DOCTOR)
    with pytest.raises(RuntimeError, match='no learnable temperature .*drop the hook'):
        runner.train()


@pytest.mark.process
def test_detectors_climb_and_sabotaged_ones_descend(tmp_path, ctkd_cfg, batch):
    from mmengine.runner import Runner

    states, found = [], {}
    for name, hooks in dict(plain=[], sound=[DOCTOR], bad=[DOCTOR, Sabotage()]).items():
        cfg = copy.deepcopy(ctkd_cfg)
        cfg['loss_kd']['temperature']['tau_start'] = 3
        runner = Runner(
            model=cfg,
            work_dir=str(tmp_path / name),
            train_dataloader=dict(
                batch_size=2,
                dataset=Scenes(batch),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=4),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=1e-4),
                paramwise_cfg=dict(
                    custom_keys={'loss_kd.temperature': dict(lr_mult=300)}
                ),
            ),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            custom_hooks=[CURRICULUM, *hooks],
            visualizer=dict(
                type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]
            ),
            experiment_name=f'{tmp_path.name}_{name}',
            randomness=dict(seed=0),
        )
        runner.train()
        states.append(runner.model.state_dict())
        found[name] = [f for f in diagnose(read_scalars(tmp_path / name), 1, 20)]
    assert [f.verdict for f in found['bad']] == ['descending']
    assert [f.verdict for f in found['sound']] == ['healthy']
    assert 'Not checked' not in found['sound'][0].seen
    plain, sound, _ = states
    assert all(torch.equal(plain[key], sound[key]) for key in plain)
