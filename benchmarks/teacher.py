"""What makes a frozen teacher faster, and what it changes.

    python benchmarks/teacher.py [--short] [--size 480x800] [--device cuda]
        [--config CONFIG --checkpoint FILE]

Every way that was considered runs the same teacher's features, in turn; the error is
the relative distance from the plain features (Euclidean norm, the worst level). Then
its RoI head on 512 RoIs: the crops, and the layers behind them; and what all of it
does to the logits. Without a checkpoint it is Faster R-CNN R101-FPN with random
weights. 2 minutes on 2 cores, 1 with --short, which leaves torch.compile out. With your
teacher's config and checkpoint it measures what ``teacher_dtype`` would change.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from pairs import batch, boxes_anywhere, config, plain_teacher
from timing import interleaved, median, parser, report
from torch import Tensor

from ctkd_mm.models.heads.roi_head import box_forward
from ctkd_mm.models.teachers.load import build_detector, load_teacher
from ctkd_mm.models.teachers.speed_up import speed_up
from ctkd_mm.utils.precision import keep_weights, low_precision

ROIS = 512


def ways(plain: BaseModel, images: Tensor, short: bool) -> dict[str, Callable]:
    """Make each way of computing the features."""
    folded, last, both, ours, half = (copy.deepcopy(plain) for _ in range(5))
    fuse_conv_bn(folded)
    last.to(memory_format=torch.channels_last)
    fuse_conv_bn(both).to(memory_format=torch.channels_last)
    speed_up(ours)
    keep_in_bfloat16(half)
    usual = copy.deepcopy(half).to(memory_format=torch.contiguous_format)
    found = {
        'plain': under(torch.no_grad, plain.extract_feat, images),
        'inference_mode': under(torch.inference_mode, plain.extract_feat, images),
        'BatchNorm folded': under(torch.no_grad, folded.extract_feat, images),
        'channels_last': under(torch.no_grad, last.extract_feat, images),
        'folded, channels_last': under(torch.no_grad, both.extract_feat, images),
        'ours': under(torch.no_grad, ours.extract_feat, images),
        'bfloat16': in_bfloat16(plain.extract_feat, images),
        'ours, cast to bfloat16': in_bfloat16(ours.extract_feat, images),
        'ours, bfloat16': in_bfloat16(half.extract_feat, images),
        'ours, bfloat16, contiguous': in_bfloat16(usual.extract_feat, images),
    }
    if not short:
        compiled = torch.compile(both.extract_feat)
        found['folded, channels_last, compiled'] = under(
            torch.no_grad, compiled, images
        )
    return found


def keep_in_bfloat16(teacher: BaseModel) -> None:
    """Do what loading a teacher with ``teacher_dtype='bfloat16'`` does."""
    speed_up(teacher, 'bfloat16')
    keep_weights(teacher, 'bfloat16')


def head_ways(teacher: BaseModel, images: Tensor) -> tuple[dict[str, Callable], ...]:
    """Make the ways of the RoI head's two parts."""
    extractor, head = teacher.roi_head.bbox_roi_extractor, teacher.roi_head.bbox_head
    half = copy.deepcopy(head)
    keep_weights(half, 'bfloat16')
    with torch.no_grad():
        feats = teacher.extract_feat(images)[: extractor.num_inputs]
        rois = random_rois(images)
        crops = extractor(feats, rois)
    return (
        {'RoIAlign': under(torch.no_grad, lambda: [extractor(feats, rois)])},
        {
            'float32': under(torch.no_grad, head, crops),
            'cast to bfloat16': in_bfloat16(head, crops),
            'bfloat16': in_bfloat16(half, crops),
        },
    )


@torch.no_grad()
def logit_errors(plain: BaseModel, images: Tensor) -> list[dict[str, str]]:
    """Compare the logits that distillation gets with those of the plain teacher."""
    ours, half = copy.deepcopy(plain), copy.deepcopy(plain)
    speed_up(ours)
    keep_in_bfloat16(half)
    rois = random_rois(images)
    want = box_forward(plain, plain.extract_feat(images), rois, 0)
    teachers = {'ours': (ours, None), 'ours, bfloat16': (half, 'bfloat16')}
    found = []
    for name, (teacher, dtype) in teachers.items():
        with low_precision(images.device, dtype):
            logits = box_forward(teacher, teacher.extract_feat(images), rois, 0)
        change = (logits.softmax(1) - want.softmax(1)).abs().max().item()
        found.append(
            {
                'way': name,
                'error': f'{((logits - want).norm() / want.norm()).item():.1e}',
                'largest change of a probability': f'{change:.1e}',
            }
        )
    return found


def random_rois(images: Tensor) -> Tensor:
    """Draw RoIs of the first image, (N, 5)."""
    generator = torch.Generator().manual_seed(0)
    boxes = boxes_anywhere(ROIS, *images.shape[-2:], generator)
    return torch.cat([torch.zeros(ROIS, 1), boxes], 1).to(images)


def under(context: Callable, function: Callable, *args: Any) -> Callable[[], Any]:
    """Make a call within a context; it waits for a GPU."""

    def call() -> Any:
        with context():
            output = function(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return output

    return call


def in_bfloat16(function: Callable, *args: Any) -> Callable[[], Any]:
    """Make a call in mixed precision, as ``teacher_dtype='bfloat16'`` does it."""

    def call(*args: Any) -> Any:
        with low_precision(args[0].device, 'bfloat16'):
            return function(*args)

    return under(torch.no_grad, call, *args)


def rows(ways: dict[str, Callable], repeats: int) -> list[dict[str, str]]:
    """Time the ways; compare with the first."""
    seconds = interleaved(ways, repeats, warm_up=2)
    times, base = median(seconds), next(iter(ways))
    want = ways[base]()
    found = []
    for name, way in ways.items():
        levels = zip(way(), want)
        error = max(((a.float() - b).norm() / b.norm()).item() for a, b in levels)
        found.append(
            {
                'way': name,
                'seconds': f'{times[name]:.4f}',
                f'over {base}': f'{times[name] / times[base]:.3f}',
                'error': f'{error:.1e}',
            }
        )
    return found


def main() -> None:
    """Measure."""
    arguments = parser(__doc__)
    arguments.add_argument('--size', default='480x800', help='height x width')
    arguments.add_argument('--batch', type=int, default=1, help='images')
    arguments.add_argument('--device', default='cpu')
    arguments.add_argument('--pair', default='r101-to-r50')
    arguments.add_argument('--config', help='of a two-stage teacher')
    arguments.add_argument('--checkpoint')
    args = arguments.parse_args()
    if args.config and not args.checkpoint:
        arguments.error('--config needs --checkpoint')
    logging.disable(logging.INFO)
    init_default_scope('mmdet')
    if args.config:
        teacher = build_detector(args.config).eval()
        load_teacher(teacher, args.checkpoint)
    else:
        teacher = plain_teacher(config('kd', args.pair))
    teacher.to(args.device).requires_grad_(False)
    size = tuple(map(int, args.size.split('x')))
    data = teacher.data_preprocessor(batch(*size, args.batch))
    repeats = 3 if args.short else 11
    crops, layers = head_ways(teacher, data['inputs'])
    tables = {
        'Features': rows(ways(teacher, data['inputs'], args.short), repeats),
        'RoI head, crops': rows(crops, repeats),
        'RoI head, layers': rows(layers, repeats),
        'Logits': logit_errors(teacher, data['inputs']),
    }
    name = 'teacher_{}x{}_{}'.format(*size, args.batch)
    report(name, tables, {}, args.out)


if __name__ == '__main__':
    main()
