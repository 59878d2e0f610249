"""The benchmark of a GPU on small models: the command, and each of its parts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.emulated_cuda

SITE = Path(__file__).parent / 'site'  # every Python that starts there has the device
SIDES = {'student', 'mmrazor', 'mdistiller', 'kd', 'ctkd', 'ctkd-instance', 'limit'}


@pytest.fixture
def part(monkeypatch, tmp_path):
    """Runs a part in this process, as the command does in another."""
    for folder in ('benchmarks', 'benchmarks/gpu'):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging.root.manager, 'disable', logging.NOTSET)
    run = import_module('run')

    def call(name: str) -> dict:
        function, case, _ = run.PARTS[name]
        case = {**case, **(run.SMALL if case else {})}
        args = Namespace(device='cuda', short=True, out=tmp_path, **case)
        module, function = function.split('.')
        return getattr(import_module(module), function)(args)

    return call


@pytest.mark.process
def test_the_command_runs_parts_that_write_what_they_found(tmp_path):
    paths = [str(SITE), str(ROOT / 'tests')]
    script = ROOT / 'benchmarks' / 'gpu' / 'run.py'
    options = ['--short', '--out', tmp_path, '--only', 'trace', 'nccl']
    done = subprocess.run(
        [sys.executable, script, *options],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    rows = json.loads((tmp_path / 'summary.json').read_text())
    assert [(x['part'], x['result']) for x in rows] == [
        ('trace', 'done'),
        ('nccl', 'not here'),
    ]
    assert rows[1]['why'] == 'this PyTorch has no NCCL'
    found = json.loads((tmp_path / 'trace.json').read_text())
    assert found['environment']['gpu'] == 'emulated'
    assert Path(found['trace']).is_file()
    assert 'no work of a device' in done.stdout
    assert 'Summary' in done.stdout


def test_trainings_in_each_precision_are_compared_with_the_cpu(part):
    found = part('precisions')
    assert list(found['losses']) == ['float32', 'float16', 'all in bfloat16']
    assert all(len(losses) == 3 for losses in found['losses'].values())
    goals = found['tables']['Goals']
    assert len(goals) == 6 and {row[''] for row in goals} == {'met'}


def test_a_stopped_run_is_resumed(part):
    tables = part('resume')['tables']
    assert tables['Preempted and resumed'][0]['iterations'] == '4 + 2'
    assert {row[''] for row in tables['Goals']} == {'met'}


def test_every_side_of_a_step_is_timed_in_mixed_precision(part):
    found = part('step_2_bfloat16')
    (rows,) = found['tables'].values()
    assert SIDES < {row['side'] for row in rows}
    mib = found['mib']  # of weights and momentum: the device counts no memory
    assert mib['ctkd']['peak'] == pytest.approx(
        mib['student']['peak'] + mib['ctkd']['teacher'], rel=1e-3
    )
    assert mib['ctkd bf16']['teacher'] < 0.55 * mib['ctkd']['teacher']


def test_the_ways_of_a_teacher_are_timed(part):
    rows = part('teacher')['tables']['Features']
    ways = {row['way'] for row in rows}
    assert {'plain', 'BatchNorm folded', 'channels_last', 'ours, bfloat16'} < ways


def test_the_wait_of_finite_hook_is_timed(part):
    found = part('waits')
    assert [row['side'] for row in found['tables']['A step']] == ['plain', 'FiniteHook']
    assert len(found['seconds']['FiniteHook']) == 2
