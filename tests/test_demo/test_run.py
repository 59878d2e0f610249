from __future__ import annotations

import shutil
import subprocess

import cv2
import pytest

from ctkd_mm.demo import run as demo


def test_the_table_is_aligned():
    rows = [dict(model='a', mAP='0.5'), dict(model='long', mAP='12')]
    assert demo.format_table(rows) == 'model  mAP\na      0.5\nlong    12'


def test_outside_a_checkout_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='run the demo in a checkout'):
        demo.run_demo()


@pytest.mark.process
def test_the_demo_prints_its_table_and_continues_where_it_was(small_checkout, capfd):
    demo.run_demo()
    shown = capfd.readouterr().out
    for words in ('teacher  ', 'student alone  ', 'student with CTKD  ', '335,306'):
        assert words in shown
    assert 'Epoch(train) [1]' in shown
    work_dir = small_checkout / 'work_dirs' / 'demo'
    for picture in ('curriculum.png', 'detections.png'):
        assert cv2.imread(str(work_dir / picture)).std() > 5
    teacher = (work_dir / 'teacher' / 'epoch_1.pth').stat().st_mtime_ns
    shutil.rmtree(work_dir / 'ctkd')
    demo.run_demo()
    assert 'student with CTKD' in capfd.readouterr().out
    assert (work_dir / 'ctkd' / 'epoch_1.pth').is_file()
    assert (work_dir / 'teacher' / 'epoch_1.pth').stat().st_mtime_ns == teacher


@pytest.mark.process
def test_a_failing_tool_shows_its_output_and_where_it_is(small_checkout, capfd):
    schedule = small_checkout / 'configs' / '_base_' / 'schedules' / 'schedule_demo.py'
    schedule.write_text(schedule.read_text().replace("'AdamW'", "'AdamW', nonsense=1"))
    with pytest.raises(subprocess.CalledProcessError):
        demo.run_demo()
    shown = capfd.readouterr().err
    assert "unexpected keyword argument 'nonsense'" in shown
    assert 'work_dirs/demo/teacher.log' in shown
