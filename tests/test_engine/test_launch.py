"""MMDetection's tools on a host without an accelerator, in one process and in two."""

from __future__ import annotations

import atexit
import os
import re
import socket
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from helpers import programs
from helpers.digest_hook import write_config
from mmengine.config import Config, DictAction

from ctkd_mm.analysis.run_log import read_metrics, read_scalars
from ctkd_mm.engine.launch import adapt_to_host, leave_group

CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
TRAIN = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
TESTS = Path(__file__).parents[1]
EVALUATED = r'preflight: teacher coco/bbox_mAP [\d.]+ on \d images'
cpu_only = pytest.mark.skipif(
    torch.cuda.is_available(), reason='where there is a GPU nothing is adapted'
)


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """The arguments that train.py gets for a config's text and arguments."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    group = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_PORT=port)
    for key, value in dict(group, MASTER_ADDR='127.0.0.1').items():
        monkeypatch.setenv(key, value)

    def adapt(text: str, *argv: str) -> list:
        config = tmp_path / 'config.py'
        config.write_text(text)
        monkeypatch.setattr(sys, 'argv', ['train.py', str(config), *argv])
        adapt_to_host(TRAIN)
        return sys.argv[2:]

    yield adapt
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    atexit.unregister(leave_group)


def test_without_launcher_and_amp_the_arguments_stay(adapted):
    argv = ['--work-dir', 'out', '--resume', '--cfg-options', 'a=1']
    assert adapted('', *argv) == argv
    assert not torch.distributed.is_initialized()


@cpu_only
def test_amp_trains_with_bfloat16_on_the_cpu(adapted):
    assert adapted('', '--amp', '--resume') == [
        '--resume',
        '--cfg-options',
        'optim_wrapper.type=ctkd_mm.CPUAmpOptimWrapper',
        'optim_wrapper.loss_scale=dynamic',
    ]


def wrapper_cfg(text: str, argv: list) -> dict:
    """The wrapper's config as train.py sees it."""
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument('--launcher')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    config = Config.fromstring(text, '.py')
    config.merge_from_dict(parser.parse_args(argv).cfg_options)
    return config.model_wrapper_cfg.to_dict()


@cpu_only
def test_a_launcher_joins_a_gloo_group_and_wraps_the_model_for_the_cpu(adapted):
    argv = adapted('', '--launcher', 'pytorch', '--cfg-options', 'b=2')
    assert torch.distributed.get_backend() == 'gloo'
    assert argv[:4] == ['--launcher', 'pytorch', '--cfg-options', 'b=2']
    assert wrapper_cfg('', argv) == dict(
        device_ids=None, broadcast_buffers=False, find_unused_parameters=False
    )


@cpu_only
@pytest.mark.parametrize(
    ('text', 'options'),
    [
        ('find_unused_parameters = True', []),
        ('', ['--cfg-options', 'find_unused_parameters=True']),
    ],
)
def test_the_users_find_unused_parameters_stays(adapted, text, options):
    argv = adapted(text, '--launcher=pytorch', *options)
    assert wrapper_cfg(text, argv)['find_unused_parameters'] is True


@cpu_only
def test_the_users_model_wrapper_cfg_stays(adapted):
    text = "model_wrapper_cfg = dict(type='MyDDP', static_graph=True)"
    argv = adapted(text, '--launcher', 'pytorch')
    expected = dict(type='MyDDP', static_graph=True, device_ids=None)
    assert wrapper_cfg(text, argv) == expected


@cpu_only
def test_a_launcher_variable_that_is_missing_is_named(adapted, monkeypatch):
    monkeypatch.delenv('RANK')
    with pytest.raises(ValueError, match='RANK expected'):
        adapted('', '--launcher', 'pytorch')


@pytest.fixture
def slurm_port(adapted, monkeypatch):
    """The port of a step of a job, as the one task of that step."""
    step_of = dict(SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_LOCALID='0')

    def port(job: int, step: int) -> str:
        step_of.update(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step))
        for key, value in step_of.items():
            monkeypatch.setenv(key, value)
        adapted('', '--launcher', 'slurm')
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return os.environ['MASTER_PORT']

    return port


def test_jobs_and_steps_on_a_node_meet_at_ports_of_their_own(slurm_port, monkeypatch):
    ports = set()
    for job, step in [(7, 0), (7, 1), (8, 0), (4_000_000, 0)]:
        monkeypatch.delenv('MASTER_PORT', raising=False)
        ports.add(int(slurm_port(job, step)))
    assert len(ports) == 4
    assert min(ports) >= 20000
    assert max(ports) < 32768  # Linux gives out ephemeral ports from there on


def test_the_users_master_port_stays(slurm_port, monkeypatch):
    given = os.environ['MASTER_PORT']
    assert slurm_port(7, 0) == given


@pytest.fixture(scope='module')
def options(digits_options, teacher_ckpt) -> list:
    return [
        '--cfg-options',
        *digits_options,
        f'model.teacher_ckpt={teacher_ckpt}',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
        'default_hooks.logger.interval=1',
    ]


def call(root: Path, *line) -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    env = dict(
        os.environ,
        PORT=port,
        OMP_NUM_THREADS='1',
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        PYTHONPATH=f'{root}:{TESTS}',
    )
    return programs.call(root, env, *line)


@pytest.fixture(scope='module')
def trained(root, options, tmp_path_factory) -> tuple:
    """The work directory and the output of a run on two processes."""
    folder = tmp_path_factory.mktemp('trained')
    config = folder / 'ctkd.py'
    write_config(config, root / CTKD)
    work_dir = folder / 'work'
    line = [config, 2, '--work-dir', work_dir, *options, *expect_map(images=3)]
    output = call(root, 'tools/dist_train.sh', *line)
    return work_dir, output


def expect_map(images: int) -> list:
    key = 'default_hooks.preflight.expect_map'
    return [f'{key}.value=0', f'{key}.tol=0', f'{key}.images={images}']


@pytest.mark.process
def test_dist_train_keeps_two_processes_alike_and_one_tells_what_the_teacher_reaches(
    trained,
):
    work_dir, output = trained
    assert [line['step'] for line in read_scalars(work_dir)] == [1, 2, 3, 4]
    first, second = ((work_dir / f'digest_{rank}').read_text() for rank in (0, 1))
    assert first == second
    assert len(re.findall(EVALUATED, output)) == 1
    (metrics,) = read_metrics(work_dir)
    assert metrics.keys() >= {'coco/bbox_mAP', 'teacher/coco/bbox_mAP'}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.process
def test_dist_train_over_nccl_checks_the_teacher_and_moves_tau(root, options, tmp_path):
    line = [CTKD, '1', '--work-dir', tmp_path, *options, *expect_map(images=2)]
    line += ['env_cfg.dist_cfg.backend=nccl']
    output = call(root, 'tools/dist_train.sh', *line)
    assert re.search(EVALUATED, output)
    lines = read_scalars(tmp_path)
    assert lines[-1]['tau'] != lines[0]['tau']
