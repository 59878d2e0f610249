"""How long a training takes to its first iteration, beside plain MMDetection.

    python benchmarks/startup.py [--short] [--out DIR]

Two sides, each in new processes: the demo's student with MMDetection's own hooks, loop
and metric, and the demo's CTKD pair as shipped. Both stop before their first iteration.
First on the digits, then, without ``--short``, with annotations of the size of COCO's
train2017 (118,287 images, 860,001 objects with outlines, made up). A minute, or ten.

What is ours is timed where it is called: imports, the teacher, the hooks, the checks.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STUDENT = 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'
PAIR = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
ROUNDS, IMAGES, OBJECTS, CORNERS = 5, 118_287, 860_001, 23
GOALS = {'digits': 1.0, 'train2017': 5.0}
OURS = 'ctkd_mm.'


def child(side: str, data: str, ckpt: str, began: float) -> None:
    """Start one side; print the seconds of its parts as JSON and end."""
    parts = {'python': time.time() - began}

    def book(part: str, since: float) -> float:
        now = time.perf_counter()
        parts[part] = parts.get(part, 0) + now - since
        return now

    now = time.perf_counter()
    import mmengine.runner

    now = book('import torch, mmengine.runner', now)
    from mmdet.utils import register_all_modules

    register_all_modules()
    now = book('import mmdet', now)
    if side == 'pair':
        import ctkd_mm  # noqa: F401

        now = book(f'{OURS}import ctkd_mm', now)
        import ctkd_mm.models.algorithms.roi_logit_distill  # noqa: F401

        now = book(f'{OURS}import the distiller, MMRazor', now)
    runner = mmengine.runner.Runner.from_cfg(make_config(side, data, ckpt))
    if side == 'pair':
        watch(runner, book)

    class Stop(mmengine.hooks.Hook):
        def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
            rest = time.time() - began - sum(parts.values())
            parts['build, read the annotations'] = rest
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps(dict(parts=parts, peak=peak)), flush=True)
            os._exit(0)

    runner.register_hook(Stop(), priority='HIGHEST')
    runner.train()


def watch(runner: Any, book: Any) -> None:
    """Time what is ours of a training's start."""
    from ctkd_mm.checks import data
    from ctkd_mm.models.teachers import frozen_teacher

    faults = data.id_faults
    data.id_faults = lambda file: [*faults(file)]  # a generator does nothing yet
    data.id_faults.__module__ = data.__name__
    for owner, name in (
        (frozen_teacher, 'load_teacher_of'),
        (frozen_teacher, 'speed_up'),
        (data, 'id_faults'),
        *((hook, 'before_train') for hook in runner.hooks),
    ):
        function, kind = getattr(owner, name), type(owner)
        if kind.__module__.startswith(OURS):
            part = f'{OURS}{kind.__name__}'
        elif function.__module__.startswith(OURS):
            part = f'{OURS}{name}'
        else:
            continue

        def timed(*args: Any, f: Any = function, part: str = part, **kw: Any) -> Any:
            since = time.perf_counter()
            try:
                return f(*args, **kw)
            finally:
                book(part, since)

        setattr(owner, name, timed)


def make_config(side: str, data: str, ckpt: str) -> Any:
    """Make the config of a side, on a set."""
    from mmengine.config import Config

    cfg = Config.fromfile(PAIR if side == 'pair' else STUDENT)
    loader = dict(num_workers=0, persistent_workers=False)
    loader['dataset'] = dict(data_root=data)
    changes = dict(
        work_dir=f'{data}/run',
        log_level='ERROR',
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=dict(ann_file=f'{data}/annotations/val.json'),
    )
    if side == 'pair':
        changes['model'] = dict(teacher_ckpt=ckpt)
    cfg.merge_from_dict(changes)
    if side == 'plain':
        cfg.custom_hooks, cfg.val_evaluator.type = [], 'mmdet.CocoMetric'
        cfg.train_cfg.type = 'EpochBasedTrainLoop'
        cfg.optim_wrapper.pop('constructor')
        cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook'))
    return cfg


def make_large(root: Path, small: Path) -> Path:
    """Make annotations of train2017's size; every image is one of the digits set's."""
    (root / 'annotations').mkdir(parents=True)
    for folder in ('train', 'val'):
        (root / folder).symlink_to((small / folder).resolve())
    val = (small / 'annotations' / 'val.json').read_text()
    (root / 'annotations' / 'val.json').write_text(val)
    draw = random.Random(0)
    place = dict(file_name='000000.png', width=128, height=128)
    about = dict(license=3, date_captured='2013-11-14 17:02:52')
    about['coco_url'] = 'http://images.cocodataset.org/train2017/000000391895.jpg'
    images = [dict(place, **about, id=i) for i in range(IMAGES)]
    objects = [
        dict(
            segmentation=[[round(draw.uniform(0, 128), 2) for _ in range(2 * CORNERS)]],
            area=round(draw.uniform(100, 2000), 4),
            iscrowd=0,
            image_id=draw.randrange(IMAGES),
            bbox=[round(draw.uniform(1, 60), 2) for _ in range(4)],
            category_id=draw.randint(1, 10),
            id=i + 1,
        )
        for i in range(OBJECTS)
    ]
    coco = dict(images=images, annotations=objects)
    coco['categories'] = json.loads(val)['categories']
    with (root / 'annotations' / 'train.json').open('w') as file:
        json.dump(coco, file)
    return root


def start(side: str, data: Path, ckpt: str) -> dict:
    """Start a side in a process of its own; return its parts and peak memory."""
    code = (
        f'import startup; startup.child({side!r}, "{data}/", {ckpt!r}, {time.time()})'
    )
    found = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        env={**os.environ, 'PYTHONPATH': f'{Path(__file__).parent}{os.pathsep}.'},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(found.stdout.splitlines()[-1])


def compare(data: Path, ckpt: str, rounds: int) -> tuple[list[dict], float, float]:
    """Start both sides in turn.

    Returns:
        A row for each part, the median of the rounds; by how many seconds the pair
        starts later; and its peak memory over the student's.
    """
    from statistics import median

    runs: dict[str, list[dict]] = dict(plain=[], pair=[])
    for i in range(rounds + 1):
        for side, found in runs.items():
            print(f'{data.name}: round {i} of {rounds}, {side}', file=sys.stderr)
            found.append(start(side, data, ckpt))
    rows, totals, peaks = [], {}, {}
    for side, found in runs.items():
        found = found[1:]  # the first filled the caches
        totals[side] = median(sum(run['parts'].values()) for run in found)
        peaks[side] = median(run['peak'] for run in found)
        for part in dict.fromkeys(part for run in found for part in run['parts']):
            value = median(run['parts'].get(part, 0.0) for run in found)
            if value >= 0.005:
                rows.append(dict(side=side, part=part, seconds=f'{value:.2f}'))
        rows.append(dict(side=side, part='all', seconds=f'{totals[side]:.2f}'))
        rows.append(dict(side=side, part='peak, MiB', seconds=f'{peaks[side]:.0f}'))
    return rows, totals['pair'] - totals['plain'], peaks['pair'] / peaks['plain']


def main() -> None:
    """Time the starts, print the tables, write ``startup.json``."""
    import tempfile

    import timing
    from soak import prepare

    args = timing.parser(__doc__).parse_args()
    tables, goals, later = {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        digits, ckpt = prepare(Path(folder), num_train=800, num_val=200)
        sets = dict(digits=(Path(digits), 1 if args.short else ROUNDS))
        if not args.short:
            print('making annotations of the size of train2017', file=sys.stderr)
            sets['train2017'] = make_large(Path(folder) / 'train2017', Path(digits)), 1
        for name, (data, rounds) in sets.items():
            tables[name], later[name], peak = compare(data, str(ckpt), rounds)
            what = f'{name}: the pair starts later, seconds'
            goals.append(timing.goal(what, later[name], GOALS[name]))
            if name == 'train2017':
                goals.append(timing.goal(f'{name}: peak memory, ratio', peak, 1.0))
    tables['Goals'] = goals
    timing.report('startup', tables, dict(later=later), args.out)


if __name__ == '__main__':
    main()
