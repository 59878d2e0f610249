from __future__ import annotations

import pytest
from helpers.run_logs import train_line, write_log

from ctkd_mm.analysis.run_log import (
    read_config,
    read_metrics,
    read_scalars,
    run_name,
    short_path,
)


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


def test_a_folder_without_logs_is_refused(tmp_path):
    for read in (read_scalars, read_config):
        with pytest.raises(FileNotFoundError, match='no JSON log'):
            read(tmp_path)


def test_a_path_is_shown_without_detours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path('runs/../runs/a.pth') == 'runs/a.pth'
    assert short_path(tmp_path / 'runs' / 'a.pth') == 'runs/a.pth'
    assert short_path('../b/./a.pth') == '../b/a.pth'
    assert short_path('/b/../c/a.pth') == '/c/a.pth'
    url = 'https://host/b/../a.pth'
    assert short_path(url) == url


def test_a_damaged_line_is_left_out(tmp_path):
    log = write_log(tmp_path, '1', [train_line(10, tau=1)])
    with log.open('ab') as file:
        file.write(b'\0\0\xff\n{"lr"\n')
    write_log(tmp_path, '2', [train_line(20, tau=1)])
    assert [line['step'] for line in read_scalars(tmp_path)] == [10, 20]


def test_a_second_shorter_training_in_the_same_folder_replaces_the_first(tmp_path):
    first = [train_line(10), train_line(20), {'coco/bbox_mAP': 0.1, 'step': 1}]
    first += [train_line(30), {'coco/bbox_mAP': 0.2, 'step': 2}]
    write_log(tmp_path, '1', first)
    write_log(tmp_path, '2', [train_line(10), {'coco/bbox_mAP': 0.9, 'step': 1}])
    assert [line['step'] for line in read_scalars(tmp_path)] == [10]
    assert [line['coco/bbox_mAP'] for line in read_metrics(tmp_path)] == [0.9]


def test_validations_are_read_apart_from_training_and_the_later_one_counts(tmp_path):
    lines = [train_line(10), {'coco/bbox_mAP': 0.1, 'step': 1}]
    write_log(tmp_path, '1', lines)
    write_log(tmp_path, '2', [{'coco/bbox_mAP': m, 'step': m * 10} for m in (0.1, 0.2)])
    assert [line['coco/bbox_mAP'] for line in read_metrics(tmp_path)] == [0.1, 0.2]
    assert len(read_scalars(tmp_path)) == 1


def test_the_config_is_that_of_the_last_start(tmp_path):
    for start, lr in (('1', 0.1), ('2', 0.2)):
        log = write_log(tmp_path, start, [train_line(1)])
        log.with_name('config.py').write_text(f'lr = {lr}\n')
    assert read_config(tmp_path).lr == 0.2
    assert read_config(log).lr == 0.2


def test_a_missing_config_is_named(tmp_path):
    log = write_log(tmp_path, '1', [train_line(1)])
    with pytest.raises(FileNotFoundError, match='config.py'):
        read_config(log)


def test_a_run_is_named_by_its_work_directory(tmp_path):
    log = write_log(tmp_path / 'ctkd', '1', [train_line(1)])
    assert run_name(log) == run_name(tmp_path / 'ctkd') == 'ctkd'
