from __future__ import annotations

import shutil
import subprocess

import cv2
import pytest

from ctkd_mm import demo
from ctkd_mm.demo_data import make_demo_data


def test_the_table_is_aligned():
    rows = [dict(model='a', mAP='0.5'), dict(model='long', mAP='12')]
    assert demo.format_table(rows) == 'model  mAP\na      0.5\nlong    12'


def test_outside_a_checkout_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='run the demo in a checkout'):
        demo.run_demo()


@pytest.fixture
def small_checkout(root, tmp_path, monkeypatch):
    """A checkout whose demo trains one epoch on 16 scenes."""
    shutil.copytree(root / 'configs', tmp_path / 'configs')
    (tmp_path / 'tools').symlink_to(root / 'tools')
    bases = tmp_path / 'configs' / '_base_'
    for path, old, new in [
        (bases / 'schedules' / 'schedule_demo.py', 'max_epochs=6', 'max_epochs=1'),
        (bases / 'schedules' / 'schedule_demo.py', 'val_interval=6', 'val_interval=1'),
        (*bases.glob('pairs/*_digits.py'), 'epoch_6.pth', 'epoch_1.pth'),
    ]:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    monkeypatch.setattr(
        demo, 'make_demo_data', lambda root: make_demo_data(root, 16, 4)
    )
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_failing_tool_shows_its_output_and_where_it_is(small_checkout, capfd):
    schedule = small_checkout / 'configs' / '_base_' / 'schedules' / 'schedule_demo.py'
    schedule.write_text(schedule.read_text().replace("'AdamW'", "'AdamW', nonsense=1"))
    with pytest.raises(subprocess.CalledProcessError):
        demo.run_demo()
    shown = capfd.readouterr().err
    assert "unexpected keyword argument 'nonsense'" in shown
    assert 'work_dirs/demo/teacher.log' in shown
