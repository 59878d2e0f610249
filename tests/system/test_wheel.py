"""The package as it is installed: a wheel, used in a folder without a checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.fileio import load

NAMED = 'ctkd_mm::demo/faster-rcnn_r18-{}_fpn_digits.py'
RUN = 'ctkd-zscore_faster-rcnn_r18-half_fpn_digits_to_faster-rcnn_r18-eighth_fpn_digits'
STUDENT = NAMED.format('eighth')


@pytest.fixture(scope='module')
def wheel(root, tmp_path_factory) -> Path:
    """The wheel of this checkout; what is built on the way stays out of it."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('ctkd_mm', 'configs', 'tools'):
        shutil.copytree(root / name, source / name, symlinks=True)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy2(root / name, source)
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    alone = '--no-deps', '--no-build-isolation'
    subprocess.run([*pip, 'wheel', *alone, '-w', out, source], check=True)
    (built,) = out.glob('*.whl')
    subprocess.run([*pip, 'install', *alone, '-t', out / 'site', built], check=True)
    return built


@pytest.fixture(scope='module')
def call(wheel, tmp_path_factory):
    """Run a command of the installed package in a folder of its own."""
    folder, site = tmp_path_factory.mktemp('elsewhere'), wheel.with_name('site')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(site)}

    def run(*words, program=('-m', 'ctkd_mm')) -> str:
        line = [sys.executable, *program, *map(str, words)]
        done = subprocess.run(line, cwd=folder, env=env, text=True, capture_output=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    run.folder, run.site = folder, site
    return run


@pytest.mark.process
def test_it_holds_all_configs_and_tools_of_the_checkout(root, wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '/.mim/' in name}
    for folder in ('configs', 'tools'):
        ours = [p for p in (root / folder).rglob('*') if p.is_file()]
        ours = {p.relative_to(root).as_posix() for p in ours if p.suffix != '.pyc'}
        assert ours == {n[13:] for n in names if n.startswith(f'ctkd_mm/.mim/{folder}')}
    assert 'ctkd_mm/.mim/model-index.yml' in names


def test_every_config_of_a_metafile_is_there_and_has_no_results(root):
    index = load(root / 'ctkd_mm' / '.mim' / 'model-index.yml')['Import']
    for path in index:
        meta = load(root / path)
        (collection,) = meta['Collections']
        listed = {model['Config'] for model in meta['Models']}
        leaves = (root / path).parent.glob('*.py')
        assert listed == {str(leaf.relative_to(root)) for leaf in leaves}
        for model in meta['Models']:
            assert model['In Collection'] == collection['Name']
            assert model.keys() == {'Name', 'In Collection', 'Config'}


@pytest.mark.process
def test_the_console_command_lists_the_commands(call):
    shown = call('--help', program=[call.site / 'bin' / 'ctkd_mm'])
    assert re.search('(?m)^  train .*MMDetection', shown)
    where = call(program=['-c', 'import ctkd_mm; print(ctkd_mm.__file__)'])
    assert where.startswith(str(call.site))


@pytest.mark.process
def test_a_pair_by_name_is_trained_and_its_student_evaluated(
    call, digits_options, teacher_ckpt
):
    options = ['--cfg-options', *digits_options]
    pair = '--teacher', NAMED.format('half'), '--teacher-ckpt', teacher_ckpt
    call('train', STUDENT, *pair, *options, 'train_cfg.max_epochs=1')
    run = call.folder / 'work_dirs' / RUN
    assert Config.fromfile(run / f'{RUN}.py').model.type == 'ctkd_mm.RoILogitDistill'
    student = call('extract', run / 'epoch_1.pth').splitlines()[-1]
    call('test', STUDENT, student, '--work-dir', 'test', *options)
    (metrics,) = (call.folder / 'test').glob('*/*.json')
    assert 'coco/bbox_mAP' in json.loads(metrics.read_text())
    call('report', run)
    assert RUN in (call.folder / 'report.html').read_text()


@pytest.mark.process
def test_a_pair_is_written_and_checked(call, digits_options, teacher_ckpt):
    names = NAMED.format('half'), STUDENT
    weights = '--teacher-ckpt', teacher_ckpt
    call('new-pair', *names, *weights, '--method', 'kd', '-o', 'pair.py')
    shown = call('check', 'pair.py', '--cfg-options', *digits_options)
    assert shown.splitlines()[-1] == 'pair is ready to train'
