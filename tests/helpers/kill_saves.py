"""Kill a training in the middle of its saves, again and again, and resume it.

    python tests/helpers/kill_saves.py --kills 200 [--hook CheckpointHook]

Each round forks a training that saves after every iteration and keeps one checkpoint
and the best one, sends it SIGKILL up to 10 ms after the beginning of one of its first
saves, and starts the next round with ``resume=True``. A round is lost if the resume
fails or goes back behind an iteration whose save was complete, or if the best
checkpoint is gone or unreadable. The last line is JSON: ``within_a_save`` counts the
kills between the beginning of a save and its end, ``half_written`` those that left half
a file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

import ctkd_mm  # noqa: F401  registers the hook, allows MMEngine's checkpoints


class Ones(Dataset):
    metainfo: dict = {}

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.ones(1))


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(500_000))

    def forward(self, inputs, mode: str):
        return dict(loss=self.weight.sum()) if mode == 'loss' else [0]


class AlwaysBetter(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(mAP=time.time())


class Tell(Hook):
    """Tells the parent which iteration was resumed, and of every save both ends."""

    priority = 'LOWEST'

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def before_train(self, runner) -> None:
        os.write(self.pipe, f'resumed {runner.iter}\n'.encode())

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        os.write(self.pipe, f'saving {runner.iter}\n'.encode())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        os.write(self.pipe, f'saved {runner.iter + 1}\n'.encode())

    def after_val_epoch(self, runner, metrics=None) -> None:
        os.write(self.pipe, b'best 1\n')


def train(work_dir: str, hook: str, pipe: int) -> None:
    loader = dict(
        dataset=Ones(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    val_loader = dict(loader, num_batch_per_epoch=1)
    runner = Runner(
        model=Model(),
        work_dir=work_dir,
        resume=True,
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=10**6, val_interval=2),
        val_dataloader=val_loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(AlwaysBetter()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(
                type=hook,
                by_epoch=False,
                interval=1,
                max_keep_ckpts=1,
                save_best='mAP',
                rule='greater',
            )
        ),
        custom_hooks=[Tell(pipe)],
        log_level='ERROR',
    )
    runner.train()


def one_round(
    work_dir: Path, hook: str, save: int, delay: float
) -> tuple[list[tuple[str, int]], str]:
    """Train until ``delay`` seconds after a save has begun, the first is 1, then kill.

    Returns what the child told, in order, and its fate.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            train(str(work_dir), hook, writer)
        finally:
            os._exit(1)
    os.close(writer)
    told: list[tuple[str, int]] = []
    with os.fdopen(reader) as lines:
        for line in iter(lines.readline, ''):  # until then, or until the child died
            told.append(parsed(line))
            save -= told[-1][0] == 'saving'
            if not save:
                time.sleep(delay)
                break
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        told += [parsed(line) for line in lines]
    return told, 'failed' if save or not os.WIFSIGNALED(status) else 'killed'


def parsed(line: str) -> tuple[str, int]:
    kind, number = line.split()
    return kind, int(number)


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('--hook', default='ctkd_mm.AtomicCheckpointHook')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    result = dict(hook=args.hook, kills=0, within_a_save=0, half_written=0, lost=[])
    saved, start = 0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder)
        had_best = False
        for i in range(args.kills):
            save, delay = rng.randint(1, 4), rng.uniform(0, 0.01)
            steps, fate = one_round(work_dir, args.hook, save, delay)
            told = dict(steps)  # the last of each kind
            why = None
            if fate != 'killed':
                why = 'resume failed'
            elif told.get('resumed', -1) < saved:
                why = f'resumed {told.get("resumed")}, saved was {saved}'
            saved = max(saved, told.get('saved', 0))
            had_best |= 'best' in told
            if why is None and had_best and not readable(work_dir.glob('best_*')):
                why = 'no best checkpoint'
            begun = list(work_dir.glob('.*.tmp'))
            half = bool(begun) or not readable(work_dir.glob('iter*'))
            for path in begun:  # not to be counted twice
                path.unlink()
            result['kills'] += 1
            result['within_a_save'] += bool(steps) and steps[-1][0] == 'saving'
            result['half_written'] += half
            if why:
                result['lost'].append(why)
                for path in work_dir.glob('*'):  # start afresh, to go on counting
                    if path.is_file():
                        path.unlink()
                saved, had_best = 0, False
            if (i + 1) % 20 == 0:
                left = (time.time() - start) / (i + 1) * (args.kills - i - 1)
                print(f'{i + 1}/{args.kills} kills, {left:.0f} s left', flush=True)
    print(json.dumps(result))
    return result


def readable(paths) -> bool:
    """Tell whether there are files and each loads."""
    paths = list(paths)
    for path in paths:
        try:
            torch.load(path, map_location='cpu')
        except Exception:
            return False
    return bool(paths)


if __name__ == '__main__':
    main()
