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

import json
import os
import tempfile
from collections import Counter
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import timing
import torch
import torch.distributed as dist
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, save_checkpoint
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

CONFIG = 'configs/ctkd/ctkd_faster-rcnn_r101-to-r18_fpn_1x_coco.py'
SCALE = (320, 224)
ROIS = 128
ONE, TWO, KEPT = '1 process', '2 processes', '2, no exchange'
ALONE, LOADING = 'all-reduce alone', 'loading'
LOADED = 10
IMAGES = 400  # more than are seen: no epoch ends while the clock runs


class Collectives(TorchDispatchMode):
    """Counts the collective operations of PyTorch's made while it is entered.

    Attributes:
        calls: How many of each operation and element type.
        bytes: What they were given, in this process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()
        self.bytes: Counter = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Count the operation, then do it."""
        if func.namespace == 'c10d':
            tensors = [t for t in tree_flatten(args[0])[0] if isinstance(t, Tensor)]
            key = f'{func.overloadpacket.__name__} {tensors[0].dtype}'
            self.calls[key] += 1
            self.bytes[key] += sum(t.numel() * t.element_size() for t in tensors)
        return func(*args, **(kwargs or {}))


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
        folder: Where :func:`prepare` has put the data and the teacher.
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


def sizes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of a distiller's parts."""
    model = getattr(model, 'module', model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    teacher = list(model.teacher.parameters())
    return {
        'trainable parameters': _bytes(trainable),
        'frozen parameters': _bytes(frozen),
        'buffers': _bytes(model.buffers()),
        "teacher's parameters": _bytes(teacher),
        "teacher's buffers": _bytes(model.teacher.buffers()),
    }


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def prepare(folder: Path) -> None:
    """Write photographs with random boxes, in COCO's format, and a random teacher."""
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    classes = CocoDataset.METAINFO['classes']
    photographs = Path(sklearn.__file__).parent / 'datasets' / 'images'
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(IMAGES):
        name = f'{i}.jpg'
        (folder / name).symlink_to(photographs / ('china.jpg', 'flower.jpg')[i % 2])
        images.append(dict(id=i, file_name=name, width=640, height=427))
        for x, y, w, h, category in rng.integers(1, 81, (7, 5)).tolist():
            box = [4 * x, 3 * y, 20 + 3 * w, 20 + 2 * h]
            key = dict(id=len(annotations) + 1, image_id=i, category_id=category)
            annotations.append(dict(key, bbox=box, area=box[2] * box[3], iscrowd=0))
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'train.json').write_text(json.dumps(coco))
    teacher = MODELS.build(get_config(Config.fromfile(CONFIG).model.teacher).model)
    meta = dict(dataset_meta=dict(classes=classes))
    checkpoint = dict(meta=meta, state_dict=teacher.state_dict())
    save_checkpoint(checkpoint, str(folder / 'teacher.pth'))


def config(folder: str) -> Config:
    """The shipped config, on that data, without its downloads."""
    cfg = Config.fromfile(CONFIG)
    files = dict(data_root=folder, ann_file='train.json', data_prefix=dict(img=''))
    cfg.merge_from_dict(
        dict(
            work_dir=f'{folder}/run',
            log_level='ERROR',
            optim_wrapper=dict(optimizer=dict(lr=0.0)),
            train_dataloader=dict(batch_size=1, dataset=files),
            model=dict(teacher_ckpt=f'{folder}/teacher.pth'),
        )
    )
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.model.architecture.backbone.init_cfg = None
    for split in ('val', 'test'):
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{key}'] = None
    return cfg


def train(rank: int, size: int, folder: str, pipe: Connection) -> None:
    """One process: train on as long as :class:`Gate` lets it."""
    torch.set_num_threads(1)
    cfg = config(folder)
    cfg.work_dir += str(size)
    cfg.train_dataloader.dataset.pipeline[2].scale = SCALE
    cfg.model.architecture.train_cfg.rcnn.sampler.num = ROIS
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
    dataset = DATASETS.build(config(str(folder)).train_dataloader.dataset)
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
        prepare(Path(folder))
        found = measure(Path(folder), repeats=4 if args.short else 24)
    timing.report('scale', tables(found), found, args.out)


if __name__ == '__main__':
    main()
