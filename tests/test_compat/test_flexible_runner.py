"""What would run ours by other rules refuses it, before the first iteration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.logit_run import Distilled
from helpers.toy_run import At, Line, Mean, Points
from mmengine.model import MMFullyShardedDataParallel
from mmengine.runner import FlexibleRunner

from ctkd_mm.engine.hooks.history_hook import HistoryHook
from ctkd_mm.models.temperatures.fixed import ConstantTemperature


def flexible_runner(work_dir: Any, *hooks: Any, **keys: Any) -> FlexibleRunner:
    data = dict(
        dataset=dict(type=Points),
        batch_size=8,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    config = dict(
        model=dict(type=Line),
        work_dir=str(work_dir),
        train_dataloader=data,
        val_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg=dict(),
        val_evaluator=dict(type=Mean),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=list(hooks),
        experiment_name=work_dir.name,
        default_scope='mmengine',
        log_level='WARNING',
    )
    return FlexibleRunner(**{**config, **keys})


@pytest.mark.start
@pytest.mark.parametrize('mode', ['train', 'val'])
def test_flexible_runner_refuses_any_hook_of_ours_before_anything_runs(tmp_path, mode):
    reached = []
    seen = At('train', 1, lambda: reached.append(1))
    runner = flexible_runner(tmp_path, seen, dict(type='ctkd_mm.HistoryHook'))
    with pytest.raises(NotImplementedError, match='FlexibleRunner .*ctkd_mm.HistoryHo'):
        getattr(runner, mode)()
    assert not reached
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.start
def test_flexible_runner_refuses_a_model_of_ours_without_a_hook(tmp_path):
    model = Distilled(ConstantTemperature(2))  # ours is deep in it
    with pytest.raises(NotImplementedError, match='FlexibleRunner .*ctkd_mm.CTKDLoss'):
        flexible_runner(tmp_path, model=model).train()


class Extended(HistoryHook):
    """A user's own."""


@pytest.mark.start
def test_flexible_runner_refuses_what_extends_ours(tmp_path):
    with pytest.raises(NotImplementedError, match='ctkd_mm.HistoryHook'):
        flexible_runner(tmp_path, Extended()).train()


@pytest.mark.start
def test_flexible_runner_trains_what_is_not_ours(tmp_path):
    flexible_runner(tmp_path).train()
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_fsdp_refuses_a_model_of_ours_and_asks_torch_for_the_others():
    wrap = MMFullyShardedDataParallel
    with pytest.raises(NotImplementedError, match='FullySharded.*ctkd_mm.CTKDLoss'):
        wrap(module=Distilled(ConstantTemperature(2)))
    with pytest.raises((RuntimeError, ValueError)):  # no process group
        wrap(torch.nn.Linear(1, 1))
