"""A training checkpoint without the teacher and with it: size, save and load time.

    python benchmarks/checkpoint.py [--short] [--out work_dirs/benchmarks]

- ``ours``: what a run with ``RoILogitDistill`` saves: the student, the temperature and
  their optimizer's momentum.
- ``mmrazor``: the same with MMRazor's ``SingleTeacherDistill``, whose state dict holds
  the teacher.

Both go through MMEngine's ``save_checkpoint`` and ``load_checkpoint``. The models are
those of the CTKD configs, untrained. Either way a run reads the teacher's own file once
when it begins, which is not counted. The files lie in the temporary folder. Two
minutes; ``--short``, fewer rounds, one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint, save_checkpoint
from timing import interleaved, median, parser, report
from torch import nn

from ctkd_mm.models.algorithms.logit_distill import SingleTeacherDistill
from ctkd_mm.models.algorithms.roi_logit_distill import RoILogitDistill
from ctkd_mm.models.teachers.load import build_detector

CONFIGS = [
    f'configs/ctkd/ctkd_faster-rcnn_{pair}_fpn_1x_coco.py'
    for pair in ('r101-to-r18', 'r101-to-r50')
]
SIDES = ('ours', 'mmrazor')


def algorithms(cfg: Config) -> tuple[nn.Module, nn.Module]:
    """Build both sides of a config's pair, untrained; they share the two models."""
    student = build_detector(cfg.model.architecture)
    teacher = build_detector(cfg.model.teacher)
    distiller = dict(type='mmrazor.ConfigurableDistiller')
    return (
        RoILogitDistill(student, teacher, cfg.model.loss_kd),
        SingleTeacherDistill(
            architecture=student, teacher=teacher, distiller=distiller
        ),
    )


def checkpoint(algorithm: nn.Module, cfg: Config) -> dict:
    """Make what a run saves after its first step, without its log's numbers."""
    optim_wrapper = build_optim_wrapper(algorithm, cfg.optim_wrapper)
    for parameter in algorithm.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optim_wrapper.step()  # makes the momentum
    meta = dict(cfg=cfg.pretty_text)
    return dict(
        meta=meta,
        state_dict=algorithm.state_dict(),
        optimizer=optim_wrapper.state_dict(),
    )


def measure(config: str, repeats: int, folder: Path) -> tuple[list[dict], dict]:
    """Save and load both sides' checkpoints in turn.

    Returns:
        A row of the table for each side, and the figures.
    """
    cfg = Config.fromfile(config)
    runs: dict[str, Callable[[], object]] = {}
    both = dict(zip(SIDES, algorithms(cfg)))
    for side, algorithm in both.items():
        path = str(folder / f'{side}.pth')
        content = checkpoint(algorithm, cfg)
        runs[f'save, {side}'] = partial(save_checkpoint, content, path)
        runs[f'load, {side}'] = partial(
            load_checkpoint, algorithm, path, 'cpu', logger='silent'
        )
    seconds = interleaved(runs, repeats)
    size = {side: (folder / f'{side}.pth').stat().st_size for side in SIDES}
    times = median(seconds)
    rows = [
        {
            'side': side,
            'MB': f'{size[side] / 1e6:.1f}',
            'save, s': f'{times[f"save, {side}"]:.3f}',
            'load, s': f'{times[f"load, {side}"]:.3f}',
        }
        for side in SIDES
    ]
    weights = both['mmrazor'].teacher.state_dict().values()
    teacher = sum(weight.numel() * weight.element_size() for weight in weights)
    return rows, dict(bytes=size, teacher_bytes=teacher, seconds=seconds)


def main() -> None:
    """Measure every pair, print the tables, write ``checkpoint.json``."""
    args = parser(__doc__).parse_args()
    init_default_scope('mmdet')
    tables, figures = {}, {}
    for config in CONFIGS:
        name = Path(config).stem
        with tempfile.TemporaryDirectory() as folder:
            tables[name], figures[name] = measure(
                config, 3 if args.short else 9, Path(folder)
            )
    report('checkpoint', tables, dict(figures=figures), args.out)


if __name__ == '__main__':
    main()
