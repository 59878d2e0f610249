"""Told to stop, a run saves, exits with 75 and goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers.toy_run import At, program, toy_runner, two_programs

from ctkd_mm.engine.hooks.preemption_hook import EXIT_CODE, SIGNALS

ITERATIONS = 16  # 2 epochs of 8
ACCUMULATE = dict(optimizer=dict(type='Adam', lr=0.1), accumulative_counts=4)
EMA = dict(type='EMAHook', momentum=0.5)
BY_ITERATIONS = dict(
    type='ctkd_mm.ResumableIterBasedTrainLoop', max_iters=8, val_interval=3
)


@pytest.fixture(autouse=True)
def _own_signals():
    """A run that stops leaves both signals ignored; undo that for the next."""
    before = {s: signal.getsignal(s) for s in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, signal.SIG_IGN)  # spends what is pending
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
        signal.signal(signum, handler)


def raise_term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)  # another thread may receive it, and takes its time


def raise_usr1() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.2)


def told(moment: str, number: int, action=raise_term) -> At:
    return At(moment, number, action)


def stop(work_dir: Path, *hooks, **keys) -> dict:
    """Train until told; return the checkpoint."""
    with pytest.raises(SystemExit) as stopped:
        toy_runner(work_dir, hooks, **keys).train()
    assert stopped.value.code == EXIT_CODE == 75
    named = (work_dir / 'last_checkpoint').read_text()
    assert named == str(work_dir / 'preempted.pth')
    return torch.load(named, map_location='cpu', weights_only=False)


def final(work_dir: Path) -> dict:
    named = (work_dir / 'last_checkpoint').read_text()
    return torch.load(named, map_location='cpu', weights_only=False)


def validations(work_dir: Path) -> list:
    """The values of all validations, in the order of the runs."""
    lines = [
        json.loads(line)
        for log in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in log.read_text().splitlines()
    ]
    return [line['value'] for line in lines if 'value' in line]


def assert_same_end(straight: Path, resumed: Path) -> None:
    a, b = final(straight), final(resumed)
    assert a['meta']['iter'] == b['meta']['iter'] == ITERATIONS
    for key in ('state_dict', 'ema_state_dict'):
        assert a.get(key, {}).keys() == b.get(key, {}).keys()
        for name, value in a.get(key, {}).items():
            assert torch.equal(value, b[key][name]), name
    states = zip(a['optimizer']['state'].values(), b['optimizer']['state'].values())
    assert all(torch.equal(x['exp_avg_sq'], y['exp_avg_sq']) for x, y in states)
    assert a['param_schedulers'] == b['param_schedulers']
    assert validations(straight) == validations(resumed)


@pytest.mark.start
@pytest.mark.parametrize('iteration', [3, 8, 16])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, iteration):
    toy_runner(tmp_path / 'straight').train()
    saved = stop(tmp_path / 'stopped', told('train', iteration))
    assert saved['meta']['iter'] == iteration
    assert saved['meta']['epoch'] == (iteration - 1) // 8
    toy_runner(tmp_path / 'stopped', resume=True).train()
    assert len(validations(tmp_path / 'straight')) == 2
    assert_same_end(tmp_path / 'straight', tmp_path / 'stopped')


@pytest.mark.start
@pytest.mark.parametrize(('iteration', 'averaged'), [(8, True), (16, False)])
def test_an_interrupted_validation_is_done_anew(tmp_path, iteration, averaged):
    hooks = (EMA,) if averaged else ()
    toy_runner(tmp_path / 'straight', hooks).train()
    saved = stop(tmp_path / 'stopped', told('val', iteration), *hooks)
    assert saved['meta']['iter'] == iteration
    assert saved['meta']['epoch'] == iteration // 8
    assert len(validations(tmp_path / 'stopped')) == iteration // 8 - 1
    toy_runner(tmp_path / 'stopped', hooks, resume=True).train()
    assert_same_end(tmp_path / 'straight', tmp_path / 'stopped')


@pytest.mark.start
def test_a_second_stop_in_the_validation_done_anew_loses_nothing(tmp_path):
    toy_runner(tmp_path / 'straight').train()
    stop(tmp_path / 'stopped', told('val', 8))
    stop(tmp_path / 'stopped', told('val', 8), resume=True)
    toy_runner(tmp_path / 'stopped', resume=True).train()
    assert_same_end(tmp_path / 'straight', tmp_path / 'stopped')


@pytest.mark.start
@pytest.mark.parametrize('iteration', [3, 8])
def test_an_iteration_based_loop_skips_no_validation(tmp_path, iteration):
    toy_runner(tmp_path / 'straight', train_cfg=BY_ITERATIONS).train()
    stop(tmp_path / 'stopped', told('train', iteration), train_cfg=BY_ITERATIONS)
    toy_runner(tmp_path / 'stopped', train_cfg=BY_ITERATIONS, resume=True).train()
    assert len(validations(tmp_path / 'straight')) == 3
    assert validations(tmp_path / 'straight') == validations(tmp_path / 'stopped')


@pytest.mark.start
def test_gradients_that_are_being_accumulated_are_not_lost(tmp_path):
    toy_runner(tmp_path / 'straight', optim_wrapper=ACCUMULATE).train()
    signalled = told('train', 5)
    saved = stop(tmp_path / 'stopped', signalled, optim_wrapper=ACCUMULATE)
    assert saved['meta']['iter'] == 8
    toy_runner(tmp_path / 'stopped', optim_wrapper=ACCUMULATE, resume=True).train()
    assert_same_end(tmp_path / 'straight', tmp_path / 'stopped')


@pytest.mark.start
def test_nor_are_they_where_a_validation_comes_between(tmp_path):
    accumulate = dict(ACCUMULATE, accumulative_counts=3)  # after 6 and 9 iterations
    toy_runner(tmp_path / 'straight', optim_wrapper=accumulate).train()
    saved = stop(tmp_path / 'stopped', told('val', 8), optim_wrapper=accumulate)
    assert saved['meta']['iter'] == 9
    toy_runner(tmp_path / 'stopped', optim_wrapper=accumulate, resume=True).train()
    assert_same_end(tmp_path / 'straight', tmp_path / 'stopped')


@pytest.mark.start
def test_several_signals_are_one_request(tmp_path):
    def all_of_them() -> None:
        for action in (raise_usr1, raise_usr1, raise_term, raise_term):
            action()

    saved = stop(tmp_path / 'stopped', told('train', 3, all_of_them))
    assert saved['meta']['iter'] == 3


@pytest.mark.start
def test_a_signal_after_the_last_iteration_lets_the_run_finish(tmp_path):
    before = [signal.getsignal(s) for s in SIGNALS]
    toy_runner(tmp_path / 'run', [told('end', 0)]).train()
    assert [signal.getsignal(s) for s in SIGNALS] == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)
    assert final(tmp_path / 'run')['meta']['iter'] == ITERATIONS
    assert not (tmp_path / 'run' / 'preempted.pth').exists()


@pytest.mark.start
def test_it_makes_no_process_group_of_its_own(tmp_path, one_process_group):
    # Beside NCCL nobody would leave one of gloo, and its threads change exit codes.
    groups = torch.distributed.distributed_c10d._world.pg_map
    before = set(groups)
    stop(tmp_path / 'run', told('train', 3))
    assert set(groups) == before


@pytest.mark.start
def test_signals_outside_of_training_keep_their_meaning(tmp_path):
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append('mine'))
    hooks = dict(checkpoint=None, preemption=dict(type='ctkd_mm.PreemptionHook'))
    toy_runner(tmp_path / 'run', [told('val', 0)], default_hooks=hooks).val()
    assert set(seen) == {'mine'}


@pytest.mark.start
def test_a_run_in_another_thread_trains_without_listening(tmp_path):
    runner = toy_runner(tmp_path / 'run')
    thread = threading.Thread(target=runner.train)
    thread.start()
    thread.join()
    assert final(tmp_path / 'run')['meta']['iter'] == ITERATIONS


def wait_for(file: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.process
def test_a_signal_to_the_data_loaders_workers_as_well_is_survived(tmp_path):
    process = program(tmp_path / 'stopped', 'workers=2', 'wait=3')
    wait_for(tmp_path / 'stopped' / 'ready', process)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODE, output
    assert final(tmp_path / 'stopped')['meta']['iter'] == 3
    process = program(tmp_path / 'stopped', 'workers=2', '--resume')
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert final(tmp_path / 'stopped')['meta']['iter'] == ITERATIONS


@pytest.mark.process
def test_a_crash_does_not_wait_for_workers_that_block_signals(tmp_path):
    process = program(tmp_path / 'run', 'workers=2', 'crash=3')
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert 'crashed on purpose' in output
    assert process.returncode == 1


@pytest.mark.process
def test_a_signal_to_one_process_stops_both_at_the_same_iteration(tmp_path):
    def end(processes: list) -> list:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        print(*outputs)
        return [process.returncode for process in processes]

    assert end(two_programs(tmp_path / 'straight')) == [0, 0]
    both = two_programs(tmp_path / 'stopped', 'wait=5', 'rank=1')
    wait_for(tmp_path / 'stopped' / 'ready', both[1])
    both[1].send_signal(signal.SIGUSR1)
    assert end(both) == [EXIT_CODE, EXIT_CODE]
    assert final(tmp_path / 'stopped')['meta']['iter'] == 5
    assert end(two_programs(tmp_path / 'stopped', '--resume')) == [0, 0]
    a, b = (final(tmp_path / name)['state_dict'] for name in ('straight', 'stopped'))
    assert all(torch.equal(a[name], b[name]) for name in a)
