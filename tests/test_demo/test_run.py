from __future__ import annotations

import cv2
import pytest

from ctkd_mm import cli
from ctkd_mm.demo import run as demo


def test_the_table_is_aligned():
    rows = [dict(model='a', mAP='0.5'), dict(model='long', mAP='12')]
    assert demo.format_table(rows) == 'model  mAP\na      0.5\nlong    12'


def test_outside_a_checkout_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='run the demo in a checkout'):
        demo.run_demo()


@pytest.mark.process
def test_the_demo_prints_its_table_and_keeps_what_is_complete(
    small_checkout, capfd, monkeypatch
):
    cli.demo([])
    shown = capfd.readouterr().out
    for words in ('teacher  ', 'student alone  ', 'student with CTKD  ', '335,306'):
        assert words in shown
    assert 'Epoch(train) [1]' in shown
    for picture in ('curriculum.png', 'detections.png'):
        assert cv2.imread(str(demo.WORK_DIR / picture)).std() > 5
    started = []
    monkeypatch.setattr(demo, '_tool', lambda *args: started.append(args))
    assert demo.run_training('teacher', demo.WORK_DIR).is_file()
    assert not started
    (demo.WORK_DIR / 'ctkd' / 'last_checkpoint').unlink()  # as if interrupted
    demo.run_training('ctkd', demo.WORK_DIR)
    ((tool, _, config, *_, resume),) = started
    assert (tool, config, resume) == ('train', demo.RUNS['ctkd'], '--resume')


@pytest.mark.process
def test_a_failing_tool_shows_its_output_and_where_it_is(small_checkout):
    schedule = small_checkout / 'configs' / '_base_' / 'schedules' / 'schedule_demo.py'
    schedule.write_text(schedule.read_text().replace("'AdamW'", "'AdamW', nonsense=1"))
    with pytest.raises(RuntimeError) as error:
        demo.run_demo()
    assert "unexpected keyword argument 'nonsense'" in str(error.value)
    assert 'all of its output: work_dirs/demo/teacher.log' in str(error.value)
