from __future__ import annotations

import sys

import cv2
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from ctkd_mm import cli
from ctkd_mm.demo import run as demo


def test_the_table_is_aligned():
    rows = [dict(model='a', mAP='0.5'), dict(model='long', mAP='12')]
    assert demo.format_table(rows) == 'model  mAP\na      0.5\nlong    12'


def test_detections_below_the_threshold_are_left_out_and_boxes_have_sizes():
    instances = InstanceData(
        bboxes=torch.tensor([[1.0, 2, 11, 22], [3, 4, 5, 6]]),
        labels=torch.tensor([7, 8]),
        scores=torch.tensor([0.31, 0.29]),
    )
    sample = DetDataSample(pred_instances=instances)
    assert demo._detections(sample) == [([1, 2, 10, 20], 7)]


@pytest.mark.start
def test_the_demo_prints_its_table_and_keeps_what_is_complete(
    small_checkout, capfd, monkeypatch
):
    def in_this_process(name, log, *args):
        # MMEngine keeps one visualizer a name for the whole process.
        DetLocalVisualizer._instance_dict.clear()
        getattr(cli, name)([*map(str, args)])

    data = small_checkout / 'configs' / '_base_' / 'datasets' / 'digits_detection.py'
    no_workers = 'num_workers=0, persistent_workers=False'
    data.write_text(data.read_text().replace('num_workers=1', no_workers))
    monkeypatch.setattr(sys, 'argv', sys.argv)  # which the tools change
    monkeypatch.setattr(demo, '_tool', in_this_process)
    cli.demo([])
    shown = capfd.readouterr().out
    for words in ('teacher  ', 'student alone  ', 'student with CTKD  ', '335,306'):
        assert words in shown
    for picture in ('curriculum.png', 'detections.png'):
        assert cv2.imread(str(demo.WORK_DIR / picture)).std() > 5
    started = []
    monkeypatch.setattr(demo, '_tool', lambda *args: started.append(args))
    assert demo.run_training('teacher', demo.WORK_DIR).is_file()
    assert not started
    demo.run_training('ctkd', demo.WORK_DIR).unlink()  # as if interrupted
    demo.run_training('ctkd', demo.WORK_DIR)
    ((tool, _, config, *_, resume),) = started
    assert (tool, config, resume) == ('train', demo.RUNS['ctkd'], '--resume')


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A tool that prints a line of MMEngine's log, and ends with the given status."""
    script = tmp_path / 'tools' / 'train.py'
    script.parent.mkdir()
    line = 'mmengine - INFO - Epoch(train) [1][2/2]  tau: 2.0  time: 0.1  memory: 3'
    script.write_text(f'import sys\nprint({line!r})\nsys.exit(int(sys.argv[1]))\n')
    monkeypatch.chdir(tmp_path)
    return line


@pytest.mark.process
def test_progress_is_shown_and_all_output_kept(tool, tmp_path, capsys):
    log = tmp_path / 'out' / 'teacher.log'
    demo._tool('train', log, 0)
    assert capsys.readouterr().out == '  Epoch(train) [1][2/2]  tau: 2.0\n'
    assert log.read_text() == f'{tool}\n'


@pytest.mark.process
def test_a_failing_tool_shows_its_output_and_where_it_is(tool, tmp_path):
    log = tmp_path / 'teacher.log'
    with pytest.raises(RuntimeError) as error:
        demo._tool('train', log, 3)
    want = f'{tool}\n\ntools/train.py failed; all of its output: {log}'
    assert str(error.value) == want
