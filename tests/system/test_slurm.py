"""The Slurm tools under a real Slurm of one node."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.digest_hook import write_config
from helpers.programs import call
from mmengine.fileio import load

from ctkd_mm.engine.hooks.preemption_hook import EXIT_CODE

CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
TESTS = Path(__file__).parents[1]
PROGRAMS = ('slurmctld', 'slurmd', 'munged', 'srun', 'sbatch')
TAU = 'distiller.distill_losses.loss_kd.temperature.raw_tau'
pytestmark = pytest.mark.process


def why_not() -> str:
    if os.geteuid() != 0:
        return 'a Slurm of our own needs root'
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f'not installed: {missing}' if missing else ''


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    """The environment of jobs in a Slurm of our own."""
    if why_not():
        if os.environ.get('CTKD_MM_REQUIRE_SLURM'):
            pytest.fail(why_not())
        pytest.skip(why_not())
    folder = tmp_path_factory.mktemp('slurm')
    try:
        subprocess.run(
            [TESTS / 'helpers' / 'slurm' / 'up.sh', folder], check=True, timeout=120
        )
        yield {
            **os.environ,
            'SLURM_CONF': str(folder / 'slurm.conf'),
            'OMP_NUM_THREADS': '1',
            'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            'GRES': 'none',
            'GPUS': '2',
            'GPUS_PER_NODE': '2',
            'CPUS_PER_TASK': '1',
            'PYTHONPATH': str(TESTS),  # for the hook of the config
        }
    finally:
        subprocess.run(
            [TESTS / 'helpers' / 'slurm' / 'down.sh', folder], check=False, timeout=120
        )


@pytest.fixture(scope='module')
def config(root, digits_options, teacher_ckpt, tmp_path_factory) -> list:
    """A config of 5 epochs of 4 iterations on two tasks, and the options it needs."""
    path = tmp_path_factory.mktemp('config') / 'ctkd.py'
    write_config(path, root / CTKD)
    return [
        path,
        '--cfg-options',
        *digits_options,
        f'model.teacher_ckpt={teacher_ckpt}',
        'train_cfg.max_epochs=5',
        'train_cfg.val_interval=5',
        'train_dataloader.batch_size=2',
        'test_dataloader.batch_size=1',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=5',
    ]


@pytest.fixture(scope='module')
def trained(root, slurm, config, tmp_path_factory) -> Path:
    """The work directory of an uninterrupted run by tools/slurm_train.sh."""
    folder = tmp_path_factory.mktemp('trained')
    path, *options = config
    call(root, slurm, 'tools/slurm_train.sh', 'debug', 'ctkd', path, folder, *options)
    return folder


def steps(folder: Path) -> list:
    """The numbers of all iterations that a run logged."""
    return [
        json.loads(line)['step']
        for log in sorted(folder.glob('*/vis_data/scalars.json'))
        for line in log.read_text().splitlines()
        if 'loss' in json.loads(line)
    ]


def test_slurm_train_keeps_two_tasks_alike(trained):
    assert steps(trained) == list(range(1, 21))
    first, second = ((trained / f'digest_{rank}').read_text() for rank in (0, 1))
    assert first == second


def test_slurm_test_finds_on_two_tasks_what_one_process_finds(
    root, slurm, config, trained, tmp_path
):
    path, *options = config
    line = [path, trained / 'epoch_5.pth', '--work-dir', tmp_path]
    out = ['--out', tmp_path / 'two.pkl', *options]
    both = call(root, slurm, 'tools/slurm_test.sh', 'debug', 'test', *line, *out)
    out = ['--out', tmp_path / 'one.pkl', *options]
    alone = {**slurm, 'PYTHONPATH': f'{root}:{TESTS}'}
    alone = call(root, alone, 'python', 'tools/test.py', *line, *out)
    one, two = (
        {image['img_id']: image['pred_instances'] for image in load(tmp_path / name)}
        for name in ('one.pkl', 'two.pkl')
    )
    assert len(one) == 4
    assert sum(len(found['scores']) for found in one.values()) > 4
    assert one.keys() == two.keys()
    for image, found in one.items():
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(found[key], two[image][key])
    # Not from MMEngine's JSON file, which both tasks write at once.
    figures = [re.findall(r'coco/(bbox_\w+: \S+)', output) for output in (alone, both)]
    assert len(figures[0]) == 6
    assert figures[0] == figures[1]


@pytest.fixture
def submitted(root, slurm, config, tmp_path):
    """A job of the template that has trained three iterations: its number."""
    path, *options = config
    flags = '--parsable --ntasks=2 --ntasks-per-node=2 --gres=none --cpus-per-task=1'
    script = 'tools/slurm_preemptible.sbatch'
    run = [f'--output={tmp_path}/log', '--time=20', script, path, tmp_path, *options]
    job = call(root, slurm, 'sbatch', *flags.split(), *run).strip()
    until(lambda: len(steps(tmp_path)) >= 3, tmp_path / 'log')
    yield job
    call(root, slurm, 'scancel', job)


def until(reached, log: Path) -> None:
    deadline = time.monotonic() + 150
    while not reached():
        assert time.monotonic() < deadline, log.read_text()[-6000:]
        time.sleep(0.1)


def test_a_preempted_job_requeues_itself_and_ends_with_the_same_bits(
    root, slurm, trained, submitted, tmp_path
):
    log = tmp_path / 'log'

    def state() -> str:
        return call(root, slurm, 'scontrol', '-o', 'show', 'job', submitted)

    call(root, slurm, 'scancel', '--signal=USR1', submitted)
    until(lambda: 'JobState=PENDING' in state(), log)
    assert f'Exited with exit code {EXIT_CODE}' in log.read_text()
    saved = load_checkpoint(tmp_path / 'preempted.pth')['meta']['iter']
    assert 3 <= saved < 20
    # Slurm would start it after two minutes, for this reason: within the second in
    # which the first run's credential was revoked, a new one counts as revoked too.
    start = 'StartTime=now+3seconds'
    call(root, slurm, 'scontrol', 'update', f'JobId={submitted}', start)
    until(lambda: re.search('JobState=(COMPLETED|FAILED)', state()), log)
    assert 'JobState=COMPLETED' in state()
    assert 'Restarts=1' in state()
    assert steps(tmp_path) == list(range(1, 21))
    straight, resumed = (
        load_checkpoint(folder / 'epoch_5.pth') for folder in (trained, tmp_path)
    )
    assert straight['state_dict'].keys() == resumed['state_dict'].keys()
    assert TAU in resumed['state_dict']
    for name, value in straight['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][name]), name
    assert (trained / 'digest_1').read_text() == (tmp_path / 'digest_1').read_text()


def test_a_job_requeued_from_outside_saves_and_is_requeued_once(
    root, slurm, submitted, tmp_path
):
    call(root, slurm, 'scontrol', 'requeue', submitted)

    def state() -> str:
        return call(root, slurm, 'scontrol', '-o', 'show', 'job', submitted)

    until(lambda: 'JobState=PENDING' in state(), tmp_path / 'log')
    assert (tmp_path / 'last_checkpoint').read_text().endswith('/preempted.pth')
    assert load_checkpoint(tmp_path / 'preempted.pth')['meta']['iter'] >= 3
    assert 'Restarts=1' in state()


def test_a_cancelled_job_saves_and_does_not_come_back(root, slurm, submitted, tmp_path):
    call(root, slurm, 'scancel', submitted)

    def state() -> str:
        return call(root, slurm, 'scontrol', '-o', 'show', 'job', submitted)

    until(lambda: 'JobState=CANCELLED' in state(), tmp_path / 'log')
    assert (tmp_path / 'last_checkpoint').read_text().endswith('/preempted.pth')
    assert 'Restarts=0' in state()


def load_checkpoint(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)
