from __future__ import annotations

import json

import cv2
import pytest

from ctkd_mm.plot import plot_curriculum, read_scalars


def write_log(work_dir, start, lines):
    log = work_dir / start / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return log


def train_line(step, **scalars):
    return dict(step=step, lr=0.02, loss=1.0, **scalars)


def test_a_resumed_runs_logs_are_joined_and_the_later_line_counts(tmp_path):
    write_log(tmp_path, '1', [train_line(i, tau=i) for i in (10, 20, 30)])
    later = [train_line(i, tau=-i) for i in (30, 40)] + [
        {'coco/bbox_mAP': 0.5, 'step': 4}
    ]
    write_log(tmp_path, '2', later)
    assert [line['tau'] for line in read_scalars(tmp_path)] == [10, 20, -30, -40]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    log = write_log(tmp_path, '1', [train_line(10, tau=1)])
    with log.open('a') as file:
        file.write('{"step": 20, "lr"')
    assert [line['step'] for line in read_scalars(tmp_path)] == [10]


def test_draws_a_png_of_several_runs(tmp_path):
    for name in ('a', 'b'):
        lines = [
            {**train_line(i, tau=i, tau_min=i - 1, tau_max=i + 2), 'lambda': 0.5}
            for i in range(1, 5)
        ]
        write_log(tmp_path / name, '1', lines)
    out = plot_curriculum([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'new' / 'c.png')
    image = cv2.imread(str(out))
    assert image.shape[0] > 300
    # Two tau curves in matplotlib's first two colours.
    for blue, green, red in [(180, 119, 31), (14, 127, 255)]:
        assert (abs(image.astype(int) - (blue, green, red)).sum(2) < 12).any()


def test_a_tau_that_comes_later_or_lacks_its_band_is_drawn_too(tmp_path):
    band = dict(tau_min=1, tau_max=4)
    lines = [train_line(1), train_line(2, tau=2, **band), train_line(3, tau=3)]
    write_log(tmp_path, '1', lines)
    image = cv2.imread(str(plot_curriculum([tmp_path], tmp_path / 'c.png')))
    assert (abs(image.astype(int) - (180, 119, 31)).sum(2) < 12).any()


def test_a_run_without_tau_is_refused(tmp_path):
    write_log(tmp_path, '1', [train_line(1)])
    with pytest.raises(ValueError, match='has no tau'):
        plot_curriculum([tmp_path], tmp_path / 'c.png')


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no JSON log'):
        read_scalars(tmp_path)
