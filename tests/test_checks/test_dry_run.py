from __future__ import annotations

import copy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS, VISBACKENDS
from mmengine.runner import Runner
from mmengine.visualization import BaseVisBackend
from mmengine.visualization.vis_backend import force_init_env

from ctkd_mm.checks.dry_run import check

CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'


def signals() -> tuple:
    return signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(15)


@pytest.mark.start
def test_a_sound_config_is_reported_and_leaves_nothing_behind(demo_cfg, teacher_ckpt):
    del demo_cfg.default_hooks['preflight']  # it is checked all the same
    before, meaning = demo_cfg.to_dict(), signals()
    report = check(demo_cfg)
    assert report[0].startswith(f'teacher_ckpt {teacher_ckpt}, weights sha256 ')
    assert report[1] == (
        '10 classes, the same in teacher_ckpt, train_dataloader.dataset, '
        'val_dataloader.dataset'
    )
    assert report[2] == (
        'architecture: RoIs from levels of strides [4, 8, 16, 32], 11 logits each'
    )
    assert not Path(demo_cfg.work_dir).exists()
    assert demo_cfg.to_dict() == before
    assert signals() == meaning


@pytest.mark.start
def test_a_plain_detector_is_checked_too(demo_cfg):
    demo_cfg.model = demo_cfg.model.architecture
    demo_cfg.custom_hooks = []
    demo_cfg.optim_wrapper.paramwise_cfg = None
    assert check(demo_cfg) == []


@VISBACKENDS.register_module()
class Tracker(BaseVisBackend):
    """As WandbVisBackend, which opens a run when it gets the config."""

    opened = 0

    def _init_env(self) -> None:
        Tracker.opened += 1

    @property
    @force_init_env
    def experiment(self):
        """What was opened."""

    @force_init_env
    def add_config(self, config, **kwargs) -> None:
        """Store the config."""


@pytest.mark.start
def test_no_tracker_opens_a_run(demo_cfg):
    demo_cfg.visualizer.vis_backends.append(dict(type='Tracker'))
    Runner.from_cfg(copy.deepcopy(demo_cfg))
    assert Tracker.opened == 1
    assert check(demo_cfg)
    assert Tracker.opened == 1


class OtherRunner(Runner):
    """What a config's ``runner_type`` may name."""

    def train(self) -> None:
        raise RuntimeError('another runner')


@pytest.mark.start
def test_the_runner_is_the_one_that_the_training_would_have(demo_cfg, monkeypatch):
    monkeypatch.setitem(RUNNERS.module_dict, 'OtherRunner', OtherRunner)
    demo_cfg.runner_type = 'OtherRunner'
    with pytest.raises(RuntimeError, match='another runner'):
        check(demo_cfg)


@pytest.mark.start
def test_signals_get_it_back_after_a_training_that_failed(demo_cfg):
    before = signals()
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    runner = Runner.from_cfg(demo_cfg)
    listening = []

    class Failing(Hook):
        def after_train_iter(self, *args, **kwargs):
            listening.append(signals() != before)
            raise KeyError

    runner.register_hook(Failing())
    with pytest.raises(KeyError):
        runner.train()
    assert listening == [True]
    assert signals() == before


@pytest.mark.start
def test_warnings_are_shown_and_nothing_else_is_printed(demo_cfg, capsys):
    demo_cfg.model.architecture.backbone.norm_eval = True
    check(demo_cfg)
    found = [line for line in capsys.readouterr().out.splitlines() if line]
    assert all(' - WARNING - ' in line for line in found), found
    told = [line for line in found if 'loads no weights' in line]
    assert len(told) == 1


@pytest.mark.process
def test_the_tool_says_ready_or_why_not(root, digits_options, teacher_ckpt):
    def run(*options):
        return subprocess.run(
            [sys.executable, 'tools/check.py', CTKD, '--cfg-options', *options],
            cwd=root,
            capture_output=True,
            text=True,
        )

    teacher = f'model.teacher_ckpt={teacher_ckpt}'
    good = run(*digits_options, teacher)
    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[-1] == f'{Path(CTKD).stem} is ready to train'
    bad = run(*digits_options, teacher, 'model.loss_kd.temperature.tau_range=-1')
    assert bad.returncode == 1
    (line,) = [line for line in bad.stderr.splitlines() if 'cannot train' in line]
    assert 'tau_range must be > 0 and finite, got -1' in line
