"""Scale: two processes against one on this machine, and the bytes that they exchange.

    python benchmarks/scale.py [--short] [--out work_dirs/benchmarks]

The shipped CTKD pair R101 to R18 trains on photographs scaled to 320x213, one a process
and step, with 128 RoIs, MMEngine's Runner and the shipped hooks. Every process has one
thread. Weights are random and the rate is 0: no figure depends on them.
Sides, each one iteration, data loading included:

- 1 process: not distributed.
- 2 processes: DDP over gloo, as tools/dist_train.sh wraps it on hosts without a GPU.
- 2, no exchange: the same, but each keeps its gradients; two processes share the
  machine's memory and caches, and that costs, too.
- all-reduce alone: of as many bytes, nothing else going on.
- loading: 10 photographs of 640x427 through the shipped train pipeline, to 1199x800.

Efficiency is the time of one over that of two (weak scaling). All collective operations
of an iteration are counted, whoever asks for them.

About 70 seconds in the short form and 3 minutes in the long one, on 2 cores.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import photographs
import timing
import torch
import torch.distributed as dist
from collectives import Collectives, sizes
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

ONE, TWO, KEPT = '1 process', '2 processes', '2, no exchange'
ALONE, LOADING = 'all-reduce alone', 'loading'
LOADED = 10


class Gate(Hook):
    """Lets one iteration pass, with the loading of the next one's data, when told to.

    Args:
        pipe: For commands, and for what was counted meanwhile.
        inside: Holds what an iteration is to be run in.
        counted: Entered in it since before the model was made.
    """

    priority = 'LOWEST'

    def __init__(
        self, pipe: Connection, inside: ExitStack, counted: Collectives
    ) -> None:
        self.pipe = pipe
        self.inside = inside
        self.counted = counted

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Report, then wait for ``step``, ``count``, ``keep`` or a number of bytes."""
        self.inside.close()
        self.pipe.send((self.counted.calls, self.counted.bytes, sizes(runner.model)))
        command = self.pipe.recv()
        while isinstance(command, int):
            dist.all_reduce(torch.zeros(command // 4))
            self.pipe.send(None)
            command = self.pipe.recv()
        if command == 'count':
            self.counted = self.inside.enter_context(Collectives())
        if command == 'keep':
            self.inside.enter_context(runner.model.no_sync())


class World:
    """Processes that train together.

    Args:
        size: How many.
        folder: Where :func:`photographs.prepare` has put the data and the teacher.
    """

    def __init__(self, size: int, folder: Path) -> None:
        context = torch.multiprocessing.get_context('spawn')
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            args = (rank, size, str(folder), theirs)
            self.processes.append(context.Process(target=train, args=args))
            self.processes[-1].start()
            theirs.close()  # so that a process that fails is noticed
            self.pipes.append(ours)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: Any) -> None:
        """End them; a training that has begun does not heed SIGTERM."""
        for process in self.processes:
            process.kill()
            process.join()

    def tell(self, command: str | int) -> Any:
        """Give all a command of :class:`Gate`'s; return the first one's report."""
        for pipe in self.pipes:
            pipe.send(command)
        return self.wait()

    def wait(self) -> Any:
        """Wait until all are ready for a command; return the first one's report."""
        return [pipe.recv() for pipe in self.pipes][0]


def train(rank: int, size: int, folder: str, pipe: Connection) -> None:
    """One process: train on as long as :class:`Gate` lets it."""
    torch.set_num_threads(1)
    cfg = Config.fromfile(f'{folder}/config.py')
    cfg.work_dir += str(size)
    if size > 1:
        store = f'file://{folder}/store'
        dist.init_process_group('gloo', init_method=store, rank=rank, world_size=size)
        os.environ['LOCAL_RANK'] = str(rank)  # which MMEngine reads
        cfg.launcher = 'pytorch'
        # MMEngine's own wrapping, but for a CPU.
        cfg.model_wrapper_cfg = dict(device_ids=None, broadcast_buffers=False)
    inside = ExitStack()
    counted = inside.enter_context(Collectives())
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Gate(pipe, inside, counted))
    runner.train()


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Start a world of each size, time all sides in turn, count in one iteration.

    Returns:
        Seconds of each side's runs; bytes of the model's parts; calls and bytes of
        the operations before the first iteration, and in one.
    """
    cfg = photographs.config(str(folder))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    with World(1, folder) as one, World(2, folder) as two:
        one.wait()
        *start, parts = two.wait()
        sides = {
            ONE: partial(one.tell, 'step'),
            TWO: partial(two.tell, 'step'),
            KEPT: partial(two.tell, 'keep'),
            ALONE: partial(two.tell, parts['trainable parameters']),
            LOADING: lambda: [dataset[i] for i in range(LOADED)],
        }
        # DDP makes its buckets anew after the first iteration.
        seconds = timing.interleaved(sides, repeats, warm_up=2)
        *step, _ = two.tell('count')
    return dict(seconds=seconds, parts=parts, start=start, step=step)


def tables(found: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Put what :func:`measure` found in rows."""
    seconds, parts = found['seconds'], found['parts']
    medians = timing.median(seconds)
    gradients = found['step'][1]['allreduce_ torch.float32']
    derived = {
        'efficiency': timing.ratio(seconds, ONE, TWO),
        'efficiency without the exchange': timing.ratio(seconds, ONE, KEPT),
        'seconds for the exchange': medians[TWO] - medians[KEPT],
        'images a second of the pipeline': LOADED / medians[LOADING],
    }
    counts = [
        {'when': when, 'operation': key, 'calls': f'{calls[key]}', 'bytes': f'{n:,}'}
        for when, (calls, n_bytes) in dict(
            start=found['start'], iteration=found['step']
        ).items()
        for key, n in n_bytes.items()
    ]
    excess = gradients / parts['trainable parameters']
    broadcast = sum(n for key, n in found['step'][1].items() if 'broadcast' in key)
    return {
        'seconds': [{'side': k, 'median': f'{v:.3f}'} for k, v in medians.items()],
        'two against one': [
            {'figure': k, 'measured': f'{v:.3f}'} for k, v in derived.items()
        ],
        'bytes of the parts': [
            {'part': k, 'bytes': f'{v:,}'} for k, v in parts.items()
        ],
        'collective operations of one of 2 processes': counts,
        'goals': [
            timing.goal('gradients exchanged / trainable parameters', excess, 1.0),
            timing.goal('bytes broadcast in an iteration', broadcast, 0),
        ],
    }


def main() -> None:
    """Measure, print, write ``scale.json``."""
    args = timing.parser(__doc__).parse_args()
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # MMEngine would take a GPU it sees
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        photographs.prepare(Path(folder))
        found = measure(Path(folder), repeats=4 if args.short else 24)
    timing.report('scale', tables(found), found, args.out)


if __name__ == '__main__':
    main()
