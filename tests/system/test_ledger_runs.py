"""The ledger's trainings: what is started, continued and stopped."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.report_run import TEACHER, demo_config, make_run
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ctkd_mm.demo import run as demo

DEMO = Path('work_dirs/demo')


@pytest.fixture
def ledger(root, monkeypatch):
    """The program that trains what has no log."""
    monkeypatch.syspath_prepend(str(root / 'experiments'))
    monkeypatch.chdir(root)
    return importlib.import_module('ledger')


@pytest.fixture
def make_set(ledger):
    """Make a set of the demo's pair, with other runs."""
    digits = ledger.load_sets()['digits']

    def make(runs):
        return dataclasses.replace(digits, runs=runs)

    return make


@pytest.mark.process
def test_what_is_missing_is_trained_and_what_fails_is_named(
    ledger, make_set, root, small_checkout, monkeypatch, capsys
):
    monkeypatch.chdir(small_checkout)
    Path('experiments').mkdir()
    for name in ('row_shares', 'same_start', 'teacher_cache', 'variants'):
        shutil.copy(root / 'experiments' / f'{name}.py', 'experiments')
    make_run(DEMO / 'teacher', demo_config(TEACHER, []))
    monkeypatch.setattr(ledger, 'POLL_SECONDS', 0.2)
    monkeypatch.setattr(ledger, 'REPORT_SECONDS', 0)
    monkeypatch.setattr(ledger, 'rebuild', lambda: None)
    monkeypatch.setattr(ledger, 'make_demo_data', demo.make_demo_data)
    runs = {
        'control': dict(method='kd', tau_of='ctkd', seeds=[1]),
        'ctkd': dict(method='ctkd', seeds=[1]),
        'bad': dict(method='kd', seeds=[0], changes={'loss_kd': dict(nonsense=1)}),
    }
    data = make_set(runs)
    monkeypatch.setattr(ledger, 'load_sets', lambda: dict(digits=data))
    with pytest.raises(SystemExit, match='some runs failed'):
        ledger.main([])
    log = data.read_log('ctkd', 1)
    control = data.read_log('control', 1)  # after its source
    assert control['loss_kd']['tau'] == log['curves']['tau'][-1] > 1
    assert control['seed'] == 1 and control['metrics'].keys() >= {'bbox_mAP'}
    both = log['curves']['kd_foreground'][0] + log['curves']['kd_background'][0]
    assert both > 0 and log['maps'][-1][1] == log['metrics']['bbox_mAP']
    assert data.read_log('bad', 0) is None
    shown = capsys.readouterr()
    assert '3 runs of digits have no log' in shown.out and ' eta ' in shown.out
    failed = 'digits: bad, seed 0 failed: see work_dirs/ledger/digits/bad/seed0/train'
    assert failed in shown.err
    del runs['bad']
    ledger.main(['digits'])
    assert '0 runs of digits have no log' in capsys.readouterr().out


def test_a_training_goes_on_from_what_is_left_of_the_same_entry_alone(
    ledger, make_set, small_checkout, monkeypatch
):
    started = []
    monkeypatch.chdir(small_checkout)
    monkeypatch.setattr(
        ledger.subprocess, 'Popen', lambda line, **_: started.append(line)
    )
    kept = ledger.WORK_DIR / 'digits' / 'kd' / 'seed0' / 'last_checkpoint'
    for tau, is_kept in ((2, False), (2, True), (3, False)):
        run = dict(method='kd', changes={'loss_kd': dict(tau=tau)})
        ledger.Training(make_set({'kd': run}), 'kd', 0).start()
        assert kept.is_file() == is_kept
        kept.write_text('epoch_5.pth')
    kept.parent.with_suffix('.py').unlink()
    ledger.Training(make_set({'kd': run}), 'kd', 0).start()
    assert not kept.is_file()
    assert all('--resume' in line for line in started)


@pytest.fixture
def data_and_teacher(root, small_checkout, monkeypatch):
    """What a run of the ledger needs, and its hooks in the path, as in a training."""
    monkeypatch.syspath_prepend(str(root))
    demo.make_demo_data(DEMO / 'data')
    make_run(DEMO / 'teacher', demo_config(TEACHER, []))


class Stopped(Exception):
    pass


class Stop(Hook):
    def before_train(self, runner):
        raise Stopped


@pytest.mark.start
def test_a_seeds_student_starts_from_the_same_weights_alone_and_in_a_pair(
    make_set, data_and_teacher
):
    changes = dict(loss_kd=dict(temperature=dict(num_classes=10)))
    runs = {
        'student': dict(method=None),
        'kd': dict(method='kd'),
        'instance': dict(method='ctkd-instance', changes=changes),
    }
    weights = {}
    for name in runs:
        cfg = make_set(runs).make_config(name, seed=3)
        for module in cfg.custom_imports.imports:
            importlib.import_module(module)
        cfg.update(work_dir=name, experiment_name=name)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(Stop(), priority='HIGHEST')
        with pytest.raises(Stopped):
            runner.train()
        model = getattr(runner.model, 'architecture', runner.model)
        weights[name] = model.state_dict()
    for name in ('kd', 'instance'):
        for key, value in weights['student'].items():
            assert torch.equal(weights[name][key], value), key


def test_a_second_ledger_does_not_train_into_the_same_folders(
    ledger, monkeypatch, tmp_path
):
    monkeypatch.setattr(ledger, 'WORK_DIR', tmp_path / 'ledger')
    with ledger.alone():
        with pytest.raises(SystemExit, match='another process trains in'):
            with ledger.alone():
                pass
    with ledger.alone():
        pass


@pytest.mark.process
def test_no_training_outlives_the_ledger(ledger, make_set, monkeypatch):
    class Endless(ledger.Training):
        def start(self):
            self.process = subprocess.Popen(['sleep', '60'])
            return True

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, 'POLL_SECONDS', 0)
    monkeypatch.setattr(ledger.Progress, 'report', interrupt)
    trainings = [Endless(make_set({}), 'kd', seed) for seed in (0, 1)]
    with pytest.raises(KeyboardInterrupt):
        ledger.train(trainings[:], cores=2)
    assert [t.process.returncode for t in trainings] == [-signal.SIGTERM] * 2


@pytest.mark.start
def test_a_teachers_cache_does_not_change_what_a_pair_learns(
    make_set, data_and_teacher
):
    weights, calls = [], []
    for cached in (True, False):
        cfg = make_set({'kd': dict(method='kd')}).make_config('kd', seed=3)
        for module in cfg.custom_imports.imports:
            importlib.import_module(module)
        assert cfg.custom_hooks.pop(-1)['type'] == 'TeacherCacheHook'
        if cached:
            cfg.custom_hooks.append(dict(type='TeacherCacheHook'))
        cfg.train_cfg.update(max_epochs=2, val_interval=3)
        cfg.update(work_dir=f'cached{cached}', experiment_name=f'cached{cached}')
        runner = Runner.from_cfg(cfg)
        backbone = runner.model.teacher.backbone
        seen = []
        backbone.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        runner.train()
        weights.append(runner.model.architecture.state_dict())
        calls.append(len(seen))
    assert calls[0] < calls[1]
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], rtol=1e-3, atol=1e-5), key
