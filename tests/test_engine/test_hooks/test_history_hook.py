from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner


def train(cfg: Config, history: bool) -> tuple[Runner, list[dict]]:
    cfg = copy.deepcopy(cfg)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.work_dir += f'_{history}'
    cfg.visualizer.name += f'_{history}'
    cfg.train_cfg.max_epochs = 4
    cfg.default_hooks.logger.interval = 3
    cfg.log_processor.window_size = 3
    if not history:
        del cfg.default_hooks['history']
    runner = Runner.from_cfg(cfg)
    runner.train()
    (log,) = Path(cfg.work_dir).glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    timings = ('time', 'data_time', 'memory')
    return runner, [{k: v for k, v in x.items() if k not in timings} for x in lines]


@pytest.fixture
def iterations(demo_cfg) -> Config:
    demo_cfg.train_dataloader.batch_size = 4  # 4 iterations an epoch
    return demo_cfg


@pytest.mark.process
def test_the_history_is_bounded_and_the_log_the_same(iterations):
    bounded, lines = train(iterations, True)
    endless, same_lines = train(iterations, False)
    assert len(lines) == 4 and lines == same_lines
    for runner, length in ((bounded, 3), (endless, 16)):
        values, counts = runner.message_hub.log_scalars['train/loss'].data
        assert len(values) == len(counts) == length


@pytest.mark.process
def test_a_global_window_gets_all(iterations):
    window = dict(data_src='loss', method_name='mean', window_size='global')
    iterations.log_processor.custom_cfg = [window]
    runner, _ = train(iterations, True)
    assert len(runner.message_hub.log_scalars['train/loss'].data[0]) == 16


@pytest.mark.process
def test_an_epochs_window_gets_an_epoch(iterations):
    window = dict(data_src='loss', method_name='mean', window_size='epoch')
    iterations.log_processor.custom_cfg = [window]
    runner, lines = train(iterations, True)
    assert len(runner.message_hub.log_scalars['train/loss'].data[0]) == 4
    assert lines == train(iterations, False)[1]
