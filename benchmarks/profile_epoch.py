"""Where the time of a distillation's epoch goes, and how much of it is ours.

    python benchmarks/profile_epoch.py [--short] [--out DIR]

One epoch of the demo's CTKD pair with its validation, on the CPU and without loader
workers, so that all that is done is seen: half a minute on 2 cores, ``--short`` 10 s.
Every part has its own time, without that of the parts inside it, so the shares sum to
1. The teacher is untrained, for nothing here depends on what it knows. A hook costs
the same host time beside a larger model: `ms/iteration` tells what it is of a step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timing
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from soak import CONFIG, prepare

from ctkd_mm.engine.loops import seeded_data as reseed

BATCH_SIZE = 8
ITERATIONS, SHORT = 50, 10
OURS = 'ctkd_mm.'
ONCE = ', once a run'
BEFORE = 'before the epoch, and between the parts'


class Clock:
    """Own time of nested parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = [BEFORE]
        self.since = time.perf_counter()

    def switch(self) -> None:
        """Book the time since the last switch on the part that was running."""
        now = time.perf_counter()
        self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Book calls of ``owner.name`` on a part."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self.running.pop()

        setattr(owner, name, watched)

    def iterate(self, iterator: Iterator, part: str) -> Iterator:
        """Book what an iterator does on a part."""
        step = type('Step', (), dict(next=staticmethod(lambda: next(iterator, None))))
        self.watch(step, 'next', part)
        return iter(step.next, None)


def build(images: int, out: Path) -> Runner:
    """Make the data, the teacher's checkpoint and the run; nothing of an old one stays.

    Args:
        images: How many to train on.
        out: Folder for everything.
    """
    data, teacher_ckpt = prepare(out, num_train=images, num_val=images // 4)
    cfg = Config.fromfile(CONFIG)
    loader = dict(batch_size=BATCH_SIZE, num_workers=0, persistent_workers=False)
    loader['dataset'] = dict(data_root=f'{data}/')
    evaluator = dict(ann_file=f'{data}/annotations/val.json')
    cfg.merge_from_dict(
        dict(
            work_dir=str(out / 'run'),
            model=dict(teacher_ckpt=teacher_ckpt),
            train_dataloader=loader,
            val_dataloader=loader,
            val_evaluator=evaluator,
            train_cfg=dict(max_epochs=1, val_interval=1),
        )
    )
    return Runner.from_cfg(cfg)


class Watch(Hook):
    """Puts the clock on everything when all is built, before other hooks look."""

    priority = 'HIGHEST'

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def before_train(self, runner: Runner) -> None:
        """Put it on."""
        watch, model = self.clock.watch, runner.model
        watch(model.data_preprocessor, 'forward', 'preprocessing')
        watch(runner.train_loop, 'run_epoch', 'the rest')
        watch(model, 'loss', 'ctkd_mm.LogitDistill, between the models')
        watch(model.student, 'forward', 'student forward')
        watch(model.teacher, 'extract_feat', 'teacher')
        watch(model, 'run_teacher', 'teacher')
        watch(model.distiller, 'compute_distill_losses', 'ctkd_mm.CTKDLoss')
        watch(model, 'parse_losses', 'sum of the losses')
        watch(runner.optim_wrapper, 'backward', 'backward')
        watch(runner.optim_wrapper, 'step', 'optimizer')
        watch(runner.val_loop, 'run', 'validation')
        watch(runner, 'save_checkpoint', 'checkpoint save')
        watch(
            reseed, 'seed_everything', 'ctkd_mm.engine.loops.seeded_data, of images too'
        )
        for hook in runner.hooks:
            for stage in {*hook.get_triggered_stages(), '_before_step'}:
                if hook is not self and hasattr(hook, stage):
                    watch(hook, stage, hook_part(hook, stage))
        loader = runner.train_dataloader
        begin: Callable = loader._get_iterator
        loader._get_iterator = lambda: self.clock.iterate(begin(), 'data loading')


def hook_part(hook: Hook, stage: str) -> str:
    """Name a hook, MMEngine's smaller ones together."""
    name = type(hook).__name__
    if type(hook).__module__.startswith(OURS):
        return f'{OURS}{name}{ONCE if stage == "before_train" else ""}'
    return 'logging' if name == 'LoggerHook' else "MMEngine's other hooks"


def rows(seconds: dict[str, float], iterations: int) -> list[dict[str, str]]:
    """Make the table, largest first."""
    total = sum(seconds.values())
    return [
        {
            'part': part.replace(OURS, ''),
            'ours': 'x' if part.startswith(OURS) else '',
            'share': f'{value / total:.2%}',
            'ms/iteration': f'{value / iterations * 1e3:.2f}',
        }
        for part, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def main() -> None:
    """Train, print the table, write ``profile_epoch.json``."""
    args = timing.parser(__doc__).parse_args()
    iterations = SHORT if args.short else ITERATIONS
    clock = Clock()
    runner = build(iterations * BATCH_SIZE, args.out / 'profile_epoch')
    runner.register_hook(Watch(clock))
    runner.train()
    clock.switch()
    seconds = dict(clock.seconds)
    del seconds[BEFORE]
    ours = {k: v for k, v in seconds.items() if k.startswith(OURS) and ONCE not in k}
    most = max(ours, key=lambda part: ours[part])
    title = f'An epoch of {iterations} iterations, {sum(seconds.values()):.1f} s'
    share = ours[most] / sum(seconds.values())
    tables = {
        title: rows(seconds, iterations),
        'Goal': [timing.goal(f'ours, share of an epoch: {most}', share, 0.01)],
    }
    timing.report('profile_epoch', tables, dict(seconds=seconds), args.out)


if __name__ == '__main__':
    main()
