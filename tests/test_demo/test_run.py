from __future__ import annotations

import sys

import pytest
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config

from ctkd_mm import cli
from ctkd_mm.analysis import run_log
from ctkd_mm.demo import run as demo


def test_the_table_is_aligned():
    rows = [dict(model='a', mAP='0.5'), dict(model='long', mAP='12')]
    assert demo.format_table(rows) == 'model  mAP\na      0.5\nlong    12'


@pytest.mark.start
def test_the_demo_prints_its_table_and_keeps_what_is_complete(
    small_checkout, capfd, monkeypatch
):
    def in_this_process(log, *args):
        # MMEngine keeps one visualizer a name for the whole process.
        DetLocalVisualizer._instance_dict.clear()
        cli.train([*map(str, args)])

    data = small_checkout / 'configs' / '_base_' / 'datasets' / 'digits_detection.py'
    no_workers = 'num_workers=0, persistent_workers=False'
    data.write_text(data.read_text().replace('num_workers=1', no_workers))
    monkeypatch.setattr(sys, 'argv', sys.argv)  # which the tools change
    monkeypatch.setattr(demo, '_train', in_this_process)
    cli.demo([])
    shown = capfd.readouterr().out
    for words in ('teacher  ', 'student alone  ', 'student with CTKD  ', '335,306'):
        assert words in shown
    digits, started = demo.DEMOS['digits'], []
    page = (digits.work_dir / 'report.html').read_text()
    for words in (
        'Temperature tau',
        'Curriculum lambda',
        'ground truth',
        'teaches ctkd',
    ):
        assert words in page
    monkeypatch.setattr(demo, '_train', lambda *args: started.append(args))
    assert digits.train('teacher').is_file()
    assert not started
    digits.train('ctkd').unlink()  # as if interrupted
    digits.train('ctkd')
    ((_, config, *_, resume),) = started
    assert (config, resume) == (digits.runs['ctkd'], '--resume')
    # Stopped in the last of several validations.
    monkeypatch.setattr(run_log, 'read_metrics', lambda run: [dict(step=3)])
    assert not digits.train('student').is_file()
    assert started[1][1] == digits.runs['student']


@pytest.mark.parametrize('name', demo.DEMOS)
def test_the_pair_reads_the_teacher_that_its_demo_trains(name, root, monkeypatch):
    monkeypatch.chdir(root)
    one = demo.DEMOS[name]
    teacher, student, pair = map(Config.fromfile, one.runs.values())
    last = one.work_dir / 'teacher' / f'epoch_{teacher.train_cfg.max_epochs}.pth'
    assert pair.model.teacher_ckpt == str(last)
    assert pair.model.architecture.to_dict() == student.model.to_dict()


def test_missing_photographs_are_named_with_the_page_that_has_them(
    monkeypatch, tmp_path
):
    cfg = Config.fromfile(demo.DEMOS['bccd'].runs['student'])
    cfg.dump(tmp_path / 'student.py')
    monkeypatch.chdir(tmp_path)
    one = demo.Demo(tmp_path / 'work', dict(student='student.py'))
    with pytest.raises(FileNotFoundError, match="'data/bccd' is missing: docs/own-"):
        one.prepare()


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A command that prints a line of MMEngine's log and ends with a given status."""
    script = tmp_path / 'ctkd_mm' / '__main__.py'
    script.parent.mkdir()
    line = 'mmengine - INFO - Epoch(train) [1][2/2]  tau: 2.0  time: 0.1  memory: 3'
    script.write_text(f'import sys\nprint({line!r})\nsys.exit(int(sys.argv[2]))\n')
    monkeypatch.chdir(tmp_path)
    return line


@pytest.mark.process
def test_progress_is_shown_and_all_output_kept(tool, tmp_path, capsys):
    log = tmp_path / 'out' / 'teacher.log'
    demo._train(log, 0)
    assert capsys.readouterr().out == '  Epoch(train) [1][2/2]  tau: 2.0\n'
    assert log.read_text() == f'{tool}\n'


@pytest.mark.process
def test_a_failing_tool_shows_its_output_and_where_it_is(tool, tmp_path):
    log = tmp_path / 'teacher.log'
    with pytest.raises(RuntimeError) as error:
        demo._train(log, 3)
    want = f'{tool}\n\ntraining failed; all of its output: {log}'
    assert str(error.value) == want
