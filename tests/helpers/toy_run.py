"""A training that takes no time, with real hooks and loops; also a program.

Usage: toy_run.py WORK_DIR [wait|crash|inf=ITERATION] [workers=N] [rank=RANK]
           [accumulate=N] [--resume]

The environment says which of how many processes this is, as for torchrun. ``wait``
makes the file WORK_DIR/ready in that iteration and goes on a second later; ``inf`` adds
infinity to the loss of the iteration after it, whose gradient stays as it was.
"""

from __future__ import annotations

import atexit
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

OPTIMIZER = dict(optimizer=dict(type='Adam', lr=0.1))


class Points(Dataset):
    """32 inputs of 4 numbers, each with its sum."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        point = torch.arange(4.0) * 0.1 + index * 0.3
        return point.sin(), point.sum()


class Line(BaseModel):
    """Batch normalisation and a line, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.noise = torch.nn.Dropout(0.2)
        self.line = torch.nn.Linear(4, 1)
        self.offset = 0.0  # of the loss

    def forward(self, inputs: Tensor, target: Tensor, mode: str) -> Any:
        value = self.line(self.noise(self.norm(inputs)))[:, 0]
        if mode != 'loss':
            return [value]
        return dict(loss=(value - target).square().mean() + self.offset)


class Mean(BaseMetric):
    """The mean of what the model predicts."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(float(data_samples[0].mean()))

    def compute_metrics(self, results: list) -> dict:
        return dict(value=sum(results) / len(results))


class At(Hook):
    """Calls a function at one moment."""

    priority = 'VERY_HIGH'

    def __init__(self, moment: str, number: int, action: Any) -> None:
        self.moment, self.number, self.action = moment, number, action

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if (self.moment, self.number) == ('train', runner.iter + 1):
            self.action()

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if (self.moment, self.number) == ('val', runner.iter):
            self.action()

    def after_train(self, runner: Runner) -> None:
        if self.moment == 'end':
            self.action()


def toy_runner(
    work_dir: Any, hooks: tuple = (), workers: int = 0, **keys: Any
) -> Runner:
    """Build 2 epochs of 8 iterations, each with a validation.

    Args:
        work_dir: The run's folder.
        hooks: Custom hooks.
        workers: Data loader workers.
        keys: More of the Runner's arguments, or other values for them.
    """
    data = dict(
        dataset=dict(type=Points),
        num_workers=workers,
        persistent_workers=workers > 0,
        batch_size=4 // int(os.environ.get('WORLD_SIZE', 1)),
        collate_fn=dict(type='default_collate'),
    )
    shuffled = dict(type='DefaultSampler', shuffle=True)
    config = dict(
        model=dict(type=Line),
        work_dir=str(work_dir),
        train_dataloader=dict(data, sampler=shuffled),
        val_dataloader=dict(data, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(type='ctkd_mm.ResumableEpochBasedTrainLoop', max_epochs=2),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type=Mean),
        optim_wrapper=OPTIMIZER,
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10),
            dict(type='ExponentialLR', gamma=0.5),
        ],
        default_hooks=dict(
            checkpoint=dict(type='ctkd_mm.AtomicCheckpointHook'),
            reseed=dict(type='ctkd_mm.ReseedHook'),
            preemption=dict(type='ctkd_mm.PreemptionHook'),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
        log_level='WARNING',
        default_scope='mmengine',
        experiment_name=uuid4().hex,  # else runs in one second share their records
    )
    cfg = Config(dict(model_wrapper_cfg=dict(device_ids=None)))
    return Runner(**{**config, **keys}, cfg=cfg)


def crash() -> None:
    """Fail."""
    raise RuntimeError('crashed on purpose')


def program(work_dir: Path, *words: str, **env: str) -> subprocess.Popen:
    """Start this module as a program."""
    return subprocess.Popen(
        [sys.executable, __file__, str(work_dir), *words],
        env={**os.environ, 'OMP_NUM_THREADS': '1', **env},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_programs(work_dir: Path, *words: str) -> list[subprocess.Popen]:
    """Start it as the two processes of one training."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    address = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE='2')
    return [program(work_dir, *words, RANK=r, LOCAL_RANK=r, **address) for r in '01']


if __name__ == '__main__':
    from ctkd_mm.engine.launch import leave_group

    folder, *words = sys.argv[1:]
    options = dict(word.split('=') for word in words if '=' in word)
    workers = int(options.get('workers', 0))
    launcher = 'pytorch' if 'WORLD_SIZE' in os.environ else 'none'
    if launcher == 'pytorch':
        torch.distributed.init_process_group('gloo')
        atexit.register(leave_group)

    def wait() -> None:
        """Say that signals may come, and go on a second later."""
        Path(folder, 'ready').touch()
        time.sleep(1)

    def spoil() -> None:
        """Make the next losses infinite."""
        runner.model.module.offset = math.inf

    hooks = [
        At('train', int(options[name]), action)
        for name, action in (('wait', wait), ('crash', crash), ('inf', spoil))
        if name in options and get_rank() == int(options.get('rank', 0))
    ]
    if 'inf' in options:
        hooks.append(dict(type='ctkd_mm.FiniteHook'))
    counts = int(options.get('accumulate', 1))
    runner = toy_runner(
        folder,
        hooks,
        workers,
        resume='--resume' in words,
        launcher=launcher,
        optim_wrapper=dict(OPTIMIZER, accumulative_counts=counts),
    )
    runner.train()
