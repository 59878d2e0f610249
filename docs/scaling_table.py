"""Writes the tables of scaling.md from the shipped configs and a few constants.

python docs/scaling_table.py
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctkd_mm.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'scaling.md'
BEGIN, END = '<!-- docs/scaling_table.py: ', '<!-- end -->'
PAIRS = ('r101-to-r18', 'r101-to-r50', 'r50-to-mobilenetv2')
CONFIG = 'configs/ctkd/ctkd_faster-rcnn_{}_fpn_1x_coco.py'
IMAGE = (1, 3, 800, 1344)  # 800x1333, padded to a multiple of 32
GPUS = (8, 16, 32, 64, 128, 256, 512)
IMAGES = 117_266  # of COCO's train2017, those with objects
STEP = 0.216  # seconds; MMDetection's model zoo, the R50 student alone
LINKS = {  # bytes a second, one way, of all that a node has
    'NVLink': 450e9,
    '100 Gb/s': 12.5e9,
    '200 Gb/s': 25e9,
    '400 Gb/s': 50e9,
    '8x400 Gb/s': 400e9,
}


@functools.lru_cache(None)
def build(pair: str) -> tuple[Config, nn.Module]:
    """Read a config and build its distiller, with shapes instead of weights."""
    cfg = Config.fromfile(ROOT / CONFIG.format(pair))
    init_default_scope('mmdet')
    return cfg, MODELS.build(cfg.model).train().to('meta')


def flops(model: nn.Module) -> tuple[int, int]:
    """Count the operations for one image, two for each multiplication and addition.

    Convolutions and matrices; RoIAlign, losses and NMS are not counted.

    Args:
        model: A ``RoILogitDistill`` on the meta device.

    Returns:
        The student's forward pass and the teacher's, which has no RPN.
    """
    image = torch.empty(IMAGE, device='meta')
    rois = model.student.train_cfg.rcnn.sampler.num
    roi_feats = torch.empty(rois, 256, 7, 7, device='meta')
    with torch.no_grad():
        with FlopCounterMode(display=False) as student:
            model.student.rpn_head(model.student.extract_feat(image))
            model.student.roi_head.bbox_head(roi_feats)
        with FlopCounterMode(display=False) as teacher:
            model.teacher.extract_feat(image)
            model.teacher.roi_head.bbox_head(roi_feats)
    return student.get_total_flops(), teacher.get_total_flops()


def numel(model: nn.Module, trainable: bool | None = None) -> int:
    """Count a model's parameters: all, those that are trained, or the others."""
    return sum(
        p.numel()
        for p in model.parameters()
        if trainable is None or p.requires_grad == trainable
    )


def all_reduce(size: int, gpus: int) -> float:
    """Bytes that each member of a ring sends, and receives, for ``size`` bytes."""
    return 2 * (gpus - 1) / gpus * size


def iterations(gpus: int, per_gpu: int) -> int:
    """Iterations of an epoch, as MMEngine's samplers share the images out."""
    return math.ceil(math.ceil(IMAGES / gpus) / per_gpu)


def row(*cells: str) -> str:
    return f'| {" | ".join(cells)} |'


def header(*cells: str) -> list[str]:
    return [row(*cells), '|' + '---|' * len(cells)]


def pair_table() -> list[str]:
    """One line for each pair: parameters, bytes to exchange, operations."""
    rows = header(
        'pair',
        'trained parameters',
        'frozen',
        'gradients',
        "teacher's parameters",
        'weights',
        'student forward, GFLOP an image',
        'teacher forward',
        'teacher / 3 student',
    )
    for pair in PAIRS:
        _, model = build(pair)
        student, teacher = flops(model)
        trained = numel(model, True)
        rows.append(
            row(
                pair,
                f'{trained:,}',
                f'{numel(model, False):,}',
                f'{4 * trained / 1e6:.1f} MB',
                f'{numel(model.teacher):,}',
                f'{4 * numel(model.teacher) / 1e6:.0f} MB',
                f'{student / 1e9:.0f}',
                f'{teacher / 1e9:.0f}',
                f'{teacher / (3 * student):.2f}',
            )
        )
    return rows


def schedule_table() -> list[str]:
    """One line for each number of GPUs: what the 1x schedule becomes."""
    cfg, _ = build('r101-to-r50')
    base, lr = cfg.auto_scale_lr.base_batch_size, cfg.optim_wrapper.optimizer.lr
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    per_gpu, epochs = cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs
    warm_up, ramp = cfg.param_scheduler[0].end, cfg.custom_hooks[0].end
    rows = header(
        'GPUs',
        'batch',
        'lr',
        "tau's lr",
        'iterations an epoch',
        f'of {epochs} epochs',
        f'warm-up of {warm_up}, epochs',
        f"lambda's ramp ({ramp} epochs), iterations",
    )
    for gpus in GPUS:
        batch, each = gpus * per_gpu, iterations(gpus, per_gpu)
        scaled = lr * batch / base
        rows.append(
            row(
                f'{gpus}',
                f'{batch}',
                f'{scaled:g}',
                f'{scaled * keys["loss_kd.temperature"].lr_mult:g}',
                f'{each}',
                f'{epochs * each}',
                f'{warm_up / each:.2f}',
                f'{ramp * each}',
            )
        )
    return rows


def exchange_table() -> list[str]:
    """One line for each number of GPUs: the R50 student's all-reduce, by link."""
    size = 4 * numel(build('r101-to-r50')[1], True)
    rows = header('GPUs', 'sent by each', *LINKS)
    for gpus in GPUS:
        sent = all_reduce(size, gpus)
        times = {link: sent / speed for link, speed in LINKS.items()}
        cells = [
            f'{1e3 * t:.1f} ms, {STEP / (STEP + t):.1%}'
            if (link == 'NVLink') == (gpus == 8)
            else '-'
            for link, t in times.items()
        ]
        rows.append(row(f'{gpus}', f'{sent / 1e6:.0f} MB', *cells))
    return rows


def with_tables(page: str) -> str:
    """Return a page whose tables, in their order, are those computed here."""
    for table in (pair_table, schedule_table, exchange_table):
        begin = f'{BEGIN}{table.__name__} -->'
        before, rest = page.split(begin)
        after = rest.split(END, 1)[1]
        page = '\n'.join([before + begin, '', *table(), '', END + after])
    return page


if __name__ == '__main__':
    PAGE.write_text(with_tables(PAGE.read_text()))
