"""The tools, run as users run them: in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mmdet
import pytest
import torch
from helpers.same_bits import assert_same_bits
from mmdet.apis import DetInferencer, init_detector
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from mmengine.runner import Runner, load_checkpoint

from ctkd_mm import cli
from ctkd_mm.analysis.run_log import read_scalars

CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
TEACHER = 'configs/demo/faster-rcnn_r18-half_fpn_digits.py'
STUDENT = 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'
# The launchers call python.
PATH = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PATH': PATH}


def command(tool, *args, options=()) -> list:
    shell = 'bash' if str(tool).endswith('.sh') else sys.executable
    line = [shell, str(tool), *map(str, args)]
    return [*line, '--cfg-options', *options] if options else line


def run(root: Path, tool, *args, options=()) -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        command(tool, *args, options=options),
        cwd=root,
        env={**ENV, 'PORT': port},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def options(digits_options, teacher_ckpt) -> list:
    return [
        *digits_options,
        f'model.teacher_ckpt={teacher_ckpt}',
        'train_cfg.val_interval=4',
        'train_cfg.max_epochs=4',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='module')
def trained(root, options, tmp_path_factory) -> Path:
    """A finished CTKD run of 4 epochs of 2 iterations."""
    work_dir = tmp_path_factory.mktemp('trained')
    run(root, 'tools/train.py', CTKD, '--work-dir', work_dir, options=options)
    return work_dir


@pytest.mark.process
def test_train_logs_tau_and_lambda_and_validates(trained):
    lines = read_scalars(trained)
    assert len(lines) == 8
    assert [line['lambda'] for line in lines[::2]] == pytest.approx(
        [0.0954915, 0.3454915, 0.6545085, 0.9045085], abs=1e-6
    )
    assert lines[0]['tau'] == pytest.approx(2.0)
    assert lines[-1]['tau'] != lines[0]['tau']
    (log,) = trained.glob('*/vis_data/scalars.json')
    assert 'coco/bbox_mAP' in json.loads(log.read_text().splitlines()[-1])


@pytest.mark.process
def test_a_pair_is_checked_trained_extracted_and_evaluated(
    root, options, trained, tmp_path
):
    shown = run(root, 'tools/check.py', CTKD, options=options)
    assert shown.splitlines()[-1] == f'{Path(CTKD).stem} is ready to train'
    checkpoint, student = trained / 'epoch_4.pth', tmp_path / 'student.pth'
    shown = run(root, 'tools/extract_student.py', checkpoint, '--out', student)
    assert shown.splitlines()[-1] == str(student)
    plain = [option for option in options if 'teacher_ckpt' not in option]
    results = []
    for config, weights, extra in (
        (CTKD, checkpoint, options),
        (STUDENT, student, plain),
    ):
        folder = tmp_path / weights.stem
        line = config, weights, '--work-dir', folder, '--show-dir', 'shown'
        run(root, 'tools/test.py', *line, options=extra)
        assert len(list(folder.glob('*/shown/*.png'))) == 4
        results.append(json.loads(next(folder.glob('*/*.json')).read_text()))
        del results[-1]['time'], results[-1]['data_time']
    assert results[0] == results[1]


@pytest.mark.process
@pytest.mark.parametrize('launcher', ['none', 'pytorch'])
def test_one_argument_distils_and_the_same_line_resumes(
    root, digits_options, teacher_ckpt, tmp_path, launcher
):
    pair = '--teacher', TEACHER, '--teacher-ckpt', teacher_ckpt, '--method', 'kd'
    name = 'kd_faster-rcnn_r18-half_fpn_digits_to_faster-rcnn_r18-eighth_fpn_digits'
    options = [*digits_options, 'train_cfg.val_interval=9']
    tool = 'tools/dist_train.sh', STUDENT, 2
    if launcher == 'none':
        tool = 'tools/train.py', STUDENT
        shown = run(root, 'tools/check.py', STUDENT, *pair, options=options)
        assert shown.splitlines()[-1] == f'{name} is ready to train'
    for epochs in (1, 2):
        line = [*tool, *pair, '--work-dir', tmp_path, '--resume']
        run(root, *line, options=[*options, f'train_cfg.max_epochs={epochs}'])
    model = Config.fromfile(tmp_path / f'{name}.py').model
    assert model.type == 'ctkd_mm.RoILogitDistill'
    assert model.loss_kd == dict(type='mmrazor.KLDivergence', tau=1)
    assert Path(model.teacher).samefile(root / TEACHER)
    assert 'distill.loss_kd' in read_scalars(tmp_path)[-1]
    assert len(list(tmp_path.glob('*/vis_data/scalars.json'))) == 2
    assert (tmp_path / 'epoch_2.pth').is_file()


@pytest.mark.process
def test_the_help_of_train_shows_the_teacher_first(root):
    shown = run(root, 'tools/train.py', '--help')
    assert 0 < shown.index('--teacher TEACHER') < shown.index('--work-dir WORK_DIR')


@pytest.mark.process
def test_the_extracted_student_loads_strictly_in_plain_mmdetection(
    root, trained, tmp_path
):
    out = tmp_path / 'student.pth'
    cli.extract_student([str(trained / 'epoch_4.pth'), '--out', str(out)])
    whole = torch.load(trained / 'epoch_4.pth', map_location='cpu')['state_dict']
    model = MODELS.build(Config.fromfile(root / STUDENT).model)
    load_checkpoint(model, str(out), strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole[f'architecture.{name}']), name
    assert out.stat().st_size < (trained / 'epoch_4.pth').stat().st_size / 2
    detector = init_detector(str(root / STUDENT), str(out), device='cpu')
    assert detector.dataset_meta['classes'] == tuple('0123456789')
    # Alone, the file must not pass for the distiller, of which it would load nothing.
    with pytest.raises(ValueError, match='config'):
        DetInferencer(weights=str(out), device='cpu')


@pytest.mark.process
def test_a_killed_run_resumes_to_the_same_bits(root, options, trained, tmp_path):
    line = command('tools/train.py', CTKD, '--work-dir', tmp_path, options=options)
    process = subprocess.Popen(line, cwd=root, env=ENV, stdout=subprocess.DEVNULL)
    marker = tmp_path / 'last_checkpoint'
    deadline = time.time() + 300
    while not (marker.is_file() and 'epoch_2' in marker.read_text()):
        assert process.poll() is None, 'ended before it could be killed'
        assert time.time() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'epoch_4.pth').exists()
    run(
        root,
        'tools/train.py',
        CTKD,
        '--work-dir',
        tmp_path,
        '--resume',
        options=options,
    )
    first, second = sorted(tmp_path.glob('*/vis_data/scalars.json'))
    resumed_at = json.loads(second.read_text().splitlines()[0])['step']
    assert resumed_at in (5, 7)  # the first iteration of epoch 3 or 4
    straight, resumed = (
        torch.load(folder / 'epoch_4.pth', map_location='cpu')
        for folder in (trained, tmp_path)
    )
    assert_same_bits(straight['state_dict'], resumed['state_dict'])
    assert_same_bits(straight['optimizer'], resumed['optimizer'])
    assert (
        'distiller.distill_losses.loss_kd.temperature.raw_tau' in resumed['state_dict']
    )
    for key in ('tau', 'lambda', 'loss'):
        assert read_scalars(trained)[-1][key] == read_scalars(tmp_path)[-1][key]


@pytest.mark.process
def test_mmdetections_own_train_tool_runs_a_demo_config(root, options, tmp_path):
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    two_iterations = [*options, 'train_cfg.max_epochs=1']
    run(root, tool, CTKD, '--work-dir', tmp_path, options=two_iterations)
    lines = read_scalars(tmp_path)
    assert len(lines) == 2
    assert lines[0]['distill.loss_kd'] > 0
    assert 'tau' in lines[0]


@pytest.mark.start
@pytest.mark.parametrize('method', ['ctkd-instance', 'kd'])
def test_the_other_demo_configs_train(root, options, tmp_path, monkeypatch, method):
    monkeypatch.chdir(root)
    cfg = Config.fromfile(CTKD.replace('ctkd_', f'{method}_'))
    pairs = [option.split('=', 1) for option in options]
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
    cfg.train_cfg.update(max_epochs=1, val_interval=2)
    cfg.work_dir = str(tmp_path)
    # MMEngine keeps one visualizer a name for the whole process.
    cfg.visualizer.name = str(tmp_path)
    Runner.from_cfg(cfg).train()
    lines = read_scalars(tmp_path)
    assert len(lines) == 2
    assert lines[0]['distill.loss_kd'] > 0
    assert ('tau' in lines[0]) == method.startswith('ctkd')


@pytest.mark.start
def test_an_error_in_training_names_the_key_of_the_config(
    root, options, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, 'argv', sys.argv)  # which the tool changes
    misspelt = 'model.loss_kd.temperature.tau_rnage=5'
    line = [CTKD, '--work-dir', str(tmp_path), '--cfg-options', *options, misspelt]
    with pytest.raises(TypeError, match='tau_rnage') as error:
        cli.train(line)
    told = getattr(error.value, '__notes__', [capsys.readouterr().err])  # Python 3.11
    assert f'{misspelt}: did you mean tau_range?' in told[0]


@pytest.mark.process
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_train_in_mixed_precision(root, options, tmp_path):
    run(root, 'tools/train.py', CTKD, '--amp', '--work-dir', tmp_path, options=options)
    assert all(line['distill.loss_kd'] > 0 for line in read_scalars(tmp_path))
