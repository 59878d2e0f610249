"""The tools' options, what they print, and how they end."""

from __future__ import annotations

import re

import cv2
import pytest
from helpers.run_logs import train_line, write_log

from ctkd_mm import cli

PAIR = ['--teacher', '--method', '--teacher-ckpt']
OPTIONS = dict(
    check=['config', *PAIR, '--cfg-options'],
    suggest_temperature=[
        *['config', *PAIR, '--cfg-options', '--images', '--student', '--out']
    ],
    new_pair=['teacher', 'student', '--method', '--teacher-ckpt', '-o/--out'],
    coco_subset=['ann_file', '--images', '-o/--out', '--seed'],
    extract_student=['checkpoint', '--out'],
    export_onnx=['config', '--cfg-options', 'checkpoint', 'image', '-o/--out'],
    plot_curriculum=['runs', '--out'],
    report=['runs', '--out'],
    diagnose=['runs'],
    make_demo_data=['root', '--num-train', '--num-val', '--image-size', '--seed'],
    demo=['name'],
)
DEFAULTS = dict(
    check=dict(config='c.py'),
    suggest_temperature=dict(config='c.py', images=16, out='tau_curve.png'),
    new_pair=dict(teacher='t', student='s', out='o'),
    coco_subset=dict(ann_file='a', images=2, out='o', seed=0),
    extract_student=dict(checkpoint='c'),
    export_onnx=dict(config='c.py', checkpoint='c', image='i', out='o'),
    plot_curriculum=dict(runs=['r', 's'], out='curriculum.png'),
    report=dict(runs=['r', 's'], out='report.html'),
    diagnose=dict(runs=['r', 's']),
    make_demo_data=dict(root='work_dirs/demo/data'),
    demo=dict(name='digits'),
)
LINES = dict(
    check='c.py',
    suggest_temperature='c.py',
    new_pair='t s -o o',
    coco_subset='a --images 2 -o o',
    extract_student='c',
    export_onnx='c.py c i -o o',
    plot_curriculum='r s',
    report='r s',
    diagnose='r s',
    make_demo_data='',
    demo='',
)


@pytest.mark.parametrize('name', OPTIONS)
def test_a_tool_has_these_options_and_defaults(name):
    parser = getattr(cli, name).parser()
    options = ['/'.join(a.option_strings) or a.dest for a in parser._actions]
    assert options == ['-h/--help', *OPTIONS[name]]
    assert vars(parser.parse_args(LINES[name].split())) == DEFAULTS[name]
    assert parser.description


def test_every_tool_of_the_folder_is_one_of_the_cli(root):
    names = {path.stem for path in (root / 'tools').glob('*.py')}
    assert names == {*OPTIONS, 'train', 'test'}
    for name in names:
        text = (root / 'tools' / f'{name}.py').read_text()
        assert f'from ctkd_mm.cli import {name}\n' in text


def reason(tool, *argv: str) -> str:
    with pytest.raises(SystemExit) as error:
        tool(list(argv))
    return str(error.value)


def test_an_error_says_what_is_not_done_and_why():
    told = reason(cli.extract_student, 'missing.pth')
    assert re.match('Nothing is written. .*missing.pth', told)
    told = reason(cli.check, 'c.py', '--cfg-options', 'model=1')
    assert told == "c.py cannot train. [Errno 2] No such file or directory: 'c.py'"


def test_an_error_of_another_package_keeps_its_kind_and_words(tmp_path, monkeypatch):
    def fail(cfg) -> None:
        raise KeyError('mask')

    monkeypatch.setattr('ctkd_mm.checks.dry_run.check', fail)
    config = tmp_path / 'config.py'
    config.write_text('model = dict(mask=1)')
    assert reason(cli.check, str(config)) == f'{config} cannot train. KeyError: mask'


def test_two_bases_with_the_same_key_are_told(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / f'{name}.py').write_text('model = dict(type="FasterRCNN")')
    config = tmp_path / 'config.py'
    config.write_text('_base_ = ["a.py", "b.py"]')
    told = reason(cli.check, str(config))
    assert told.startswith(f'{config} cannot train. KeyError: ')
    assert "Duplicate keys: {'model'}" in told


def test_extracting_from_a_plain_detector_is_refused(teacher_ckpt):
    told = reason(cli.extract_student, str(teacher_ckpt))
    assert re.match('Nothing is written.*holds no student.*backbone', told)


def test_the_digits_are_made(tmp_path, capsys):
    root = tmp_path / 'data'
    cli.make_demo_data([str(root), '--num-train', '2', '--num-val', '1'])
    assert capsys.readouterr().out == f'{root}\n'
    assert len(list((root / 'train').iterdir())) == 2
    assert 'num_train must be an int >= 1' in reason(
        cli.make_demo_data, str(root), '--num-train', '0'
    )


def test_the_curriculum_is_drawn(tmp_path, capsys):
    lines = [train_line(i, tau=2 + i / 9, **{'lambda': i / 9}) for i in range(1, 9)]
    write_log(tmp_path, '1', lines)
    out = tmp_path / 'c.png'
    cli.plot_curriculum([str(tmp_path), '--out', str(out)])
    assert capsys.readouterr().out == f'{out}\n'
    assert cv2.imread(str(out)).std() > 5
