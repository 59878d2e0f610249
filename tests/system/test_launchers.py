"""The shell launchers and the Makefile: what they would run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
ARGUMENT = 'model.loss_kd.temperature.tau_range=5 with a space'


@pytest.fixture
def launched(tmp_path):
    """Run a launcher with stand-ins for python and srun that print their arguments."""
    for name in ('python', 'srun'):
        stand_in = tmp_path / name
        stand_in.write_text(f'#!/bin/sh\necho {name}\nprintf "%s\\n" "$@"\n')
        stand_in.chmod(0o755)

    def launch(script, *args, **env):
        done = subprocess.run(
            [f'tools/{script}', *args],
            cwd=ROOT,
            env={'PATH': f'{tmp_path}:{os.environ["PATH"]}', **env},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    return launch


def test_dist_train_calls_torchrun_with_every_argument_whole(launched):
    words = launched('dist_train.sh', 'c.py', '4', '--cfg-options', ARGUMENT, PORT='1')
    assert words[:3] == ['python', '-m', 'torch.distributed.run']
    assert '--nproc_per_node=4' in words
    assert '--master_port=1' in words
    assert words[-6:] == [
        'tools/train.py',
        'c.py',
        '--cfg-options',
        ARGUMENT,
        '--launcher',
        'pytorch',
    ]


def test_dist_test_passes_config_and_checkpoint(launched):
    words = launched('dist_test.sh', 'c.py', 'w.pth', '2', '--tta')
    assert '--nproc_per_node=2' in words
    assert words[-6:] == [
        'tools/test.py',
        'c.py',
        'w.pth',
        '--tta',
        '--launcher',
        'pytorch',
    ]


def test_slurm_train_asks_for_the_gpus(launched):
    words = launched(
        'slurm_train.sh', 'part', 'job', 'c.py', 'out', '--resume', GPUS='16'
    )
    assert words[:4] == ['srun', '-p', 'part', '--job-name=job']
    assert '--ntasks=16' in words
    assert '--gres=gpu:8' in words
    assert words[-5:] == [
        'tools/train.py',
        'c.py',
        '--work-dir=out',
        '--resume',
        '--launcher=slurm',
    ]


def test_slurm_train_asks_for_no_gpu_where_told(launched):
    words = launched('slurm_train.sh', 'p', 'j', 'c.py', 'out', GPUS='2', GRES='none')
    assert '--gres=none' in words
    assert '--ntasks=2' in words


def run_script(script: str, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', f'tools/{script}', *args], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ('script', 'too_few'),
    [
        ('dist_train.sh', ['c.py']),
        ('dist_test.sh', ['c.py', 'w.pth']),
        ('slurm_train.sh', ['p', 'j', 'c.py']),
        ('slurm_test.sh', []),
        ('slurm_train.sh', ['p', 'j', 'c.py', '']),
    ],
)
def test_a_launcher_shows_its_usage_when_asked_or_called_with_too_few_arguments(
    script, too_few
):
    failed, helped = run_script(script, *too_few), run_script(script, '--help')
    assert (failed.returncode, helped.returncode) == (1, 0)
    assert failed.stdout == helped.stderr == ''
    assert failed.stderr == helped.stdout
    assert helped.stdout.startswith(f'Usage: tools/{script} ')
    assert helped.stdout.count('\n') == 3


def test_a_missing_argument_of_the_sbatch_script_refers_to_its_usage():
    done = run_script('slurm_preemptible.sbatch', 'c.py')
    assert done.returncode != 0
    assert 'see the usage at the top of this script' in done.stderr


def test_slurm_test_takes_extra_srun_arguments(launched):
    words = launched(
        'slurm_test.sh', 'p', 'j', 'c.py', 'w.pth', SRUN_ARGS='--quotatype=auto -N 1'
    )
    assert ['--quotatype=auto', '-N', '1'] == words[words.index('python') - 3 :][:3]
    assert words[-4:] == ['tools/test.py', 'c.py', 'w.pth', '--launcher=slurm']


@pytest.mark.parametrize('stack', ['openmmlab', 'onedl', 'classification'])
@pytest.mark.parametrize('target', ['test', 'demo', 'lint'])
def test_a_second_make_does_no_set_up(target, stack):
    venv = '.venv' if stack == 'openmmlab' else f'.venv-{stack}'
    if not (ROOT / venv / '.ready').exists():
        pytest.skip(f'this checkout has no {venv} made by make')
    line = ['make', '-n', target, f'STACK={stack}']
    plan = subprocess.run(
        line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert 'setup_env.sh' not in plan
    assert f'{venv}/bin/python' in plan
