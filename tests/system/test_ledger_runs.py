"""The ledger's trainings: what is started, continued and stopped."""

from __future__ import annotations

import importlib
import signal
import subprocess

import pytest
from helpers.report_run import TEACHER, demo_config, make_run

from ctkd_mm.demo import run as demo


@pytest.fixture
def ledger(root, monkeypatch):
    """The program that trains what has no log."""
    monkeypatch.syspath_prepend(str(root / 'experiments'))
    monkeypatch.chdir(root)
    return importlib.import_module('ledger')


@pytest.mark.process
def test_what_is_missing_is_trained_and_what_fails_is_named(
    ledger, small_checkout, monkeypatch, capsys
):
    import record

    monkeypatch.chdir(small_checkout)
    make_run(demo.WORK_DIR / 'teacher', demo_config(TEACHER, []))
    monkeypatch.setattr(ledger, 'POLL_SECONDS', 0.2)
    monkeypatch.setattr(ledger, 'REPORT_SECONDS', 0)
    monkeypatch.setattr(ledger, 'rebuild', lambda: None)
    runs = {
        'control': dict(method='kd', tau_of='ctkd', seeds=[1]),
        'ctkd': dict(method='ctkd', seeds=[1]),
        'bad': dict(method='kd', seeds=[0], changes={'loss_kd': dict(nonsense=1)}),
    }
    monkeypatch.setattr(ledger, 'load_runs', lambda: runs)
    monkeypatch.setattr(ledger, 'make_demo_data', demo.make_demo_data)
    with pytest.raises(SystemExit, match='some runs failed'):
        ledger.main()
    log = record.read_log('ctkd', 1, runs)
    control = record.read_log('control', 1, runs)  # after its source
    assert control['loss_kd']['tau'] == log['curves']['tau'][-1] > 1
    assert control['seed'] == 1 and control['metrics'].keys() >= {'bbox_mAP'}
    assert record.read_log('bad', 0, runs) is None
    shown = capsys.readouterr()
    assert '3 runs have no log' in shown.out and ' eta ' in shown.out
    assert 'bad, seed 0 failed: see work_dirs/ledger/bad/seed0/train.log' in shown.err
    del runs['bad']
    ledger.main()
    assert '0 runs have no log' in capsys.readouterr().out


def test_a_training_goes_on_from_what_is_left_of_the_same_entry_alone(
    ledger, small_checkout, monkeypatch
):
    started = []
    monkeypatch.chdir(small_checkout)
    monkeypatch.setattr(
        ledger.subprocess, 'Popen', lambda line, **_: started.append(line)
    )
    kept = ledger.WORK_DIR / 'kd' / 'seed0' / 'last_checkpoint'
    for tau, is_kept in ((2, False), (2, True), (3, False)):
        run = dict(method='kd', changes={'loss_kd': dict(tau=tau)})
        ledger.Training('kd', 0, run).start({'kd': run})
        assert kept.is_file() == is_kept
        kept.write_text('epoch_5.pth')
    kept.parent.with_suffix('.py').unlink()
    ledger.Training('kd', 0, run).start({'kd': run})
    assert not kept.is_file()
    assert all('--resume' in line for line in started)


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
def test_no_training_outlives_the_ledger(ledger, monkeypatch):
    class Endless(ledger.Training):
        def start(self, runs):
            self.process = subprocess.Popen(['sleep', '60'])
            return True

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, 'POLL_SECONDS', 0)
    monkeypatch.setattr(ledger.Progress, 'report', interrupt)
    trainings = [Endless('kd', seed, {}) for seed in (0, 1)]
    with pytest.raises(KeyboardInterrupt):
        ledger.train(trainings[:], {}, cores=2)
    assert [t.process.returncode for t in trainings] == [-signal.SIGTERM] * 2
