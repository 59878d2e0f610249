"""``compile=True``, by the back end that traces and leaves the computing as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.toy_run import At
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ctkd_mm.models.temperatures.base import find_temperatures


class Losses(Hook):
    """Keeps the losses and tau of each iteration."""

    def __init__(self) -> None:
        self.kept: list[dict] = []

    def after_train_iter(self, runner, *args, outputs=None, **kwargs) -> None:
        (temperature,) = find_temperatures(runner.model).values()
        losses = {k: float(v) for k, v in outputs.items() if 'loss' in k}
        self.kept.append(dict(losses, tau=temperature.tau.item()))


def train(cfg, name: str, poisoned: bool) -> list[dict]:
    cfg = copy.deepcopy(cfg)
    cfg.work_dir += name
    cfg.visualizer.name += name
    runner = Runner.from_cfg(cfg)
    losses = Losses()
    runner.register_hook(losses)

    def poison() -> None:
        (temperature,) = find_temperatures(runner.model).values()
        temperature.raw_tau.data.fill_(torch.nan)

    if poisoned:
        runner.register_hook(At('train', 1, poison))
        with pytest.raises(FloatingPointError, match='iteration 2.*tau = nan'):
            runner.train()
    else:
        runner.train()
    return losses.kept


@pytest.mark.start
def test_a_compiled_training_is_the_same_and_its_hooks_see_it(demo_cfg):
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    demo_cfg.train_cfg = dict(type=demo_cfg.train_cfg.type, max_epochs=2)
    demo_cfg.train_dataloader.batch_size = 4
    want = train(demo_cfg, '_plain', poisoned=False)
    demo_cfg.compile = dict(backend='eager')
    try:
        found = train(demo_cfg, '_compiled', poisoned=True)
    finally:
        torch.compiler.reset()
    assert len(found) == 1
    for a, b in zip(found, want):
        assert a == pytest.approx(b, rel=1e-3)
