"""Is this the right teacher: its classes, its levels, its mAP."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from .one_stage import dense_head
from .two_stage import box_forward, box_head, roi_path

PROBE_SIZE = 384  # pixels: three places of the largest stride in use, 128


def check_class_names(metas: dict[str, dict], loaders: dict[str, DataLoader]) -> str:
    """Compare the names, and their order, of the teacher's checkpoint and the data.

    Args:
        metas: ``meta`` of checkpoints, of MMDetection 3 or 2, by where they come from.
        loaders: The data loaders, by their keys in the config.

    Returns:
        A line for the log.

    Raises:
        ValueError: At the first class that differs, or if their number does.
    """
    names = {}
    for key, meta in metas.items():
        meta = meta.get('dataset_meta') or meta
        names[key] = meta.get('classes', meta.get('CLASSES'))
    for key, loader in loaders.items():
        data_meta = getattr(loader.dataset, 'metainfo', {})
        names[f'{key}.dataset'] = data_meta.get('classes')
    known = {key: tuple(value) for key, value in names.items() if value}
    if not known:
        return 'no class names to compare'
    (first, want), *others = known.items()
    for key, found in others:
        if found == want:
            continue
        i = next(
            (i for i, (a, b) in enumerate(zip(want, found)) if a != b),
            min(len(want), len(found)),
        )
        raise ValueError(
            f'class {i} is {_at(want, i)} in {first} ({len(want)} classes) and '
            f'{_at(found, i)} in {key} ({len(found)} classes): names and order must '
            "agree, or column i of the two models' logits means two things. Set "
            'metainfo.classes of the data as the teacher was trained, or take another '
            'checkpoint'
        )
    line = f'{len(want)} classes, the same in {", ".join(known)}'
    unnamed = [key for key in names if key not in known]
    return line + (f'; no names to compare in {", ".join(unnamed)}' if unnamed else '')


def _at(names: tuple, i: int) -> str:
    return repr(names[i]) if i < len(names) else 'absent'


@torch.no_grad()
def check_roi_head(key: str, model: BaseModel, stage: int = 0) -> str:
    """Run a detector on a blank image and one RoI, and compare with its config.

    Args:
        key: ``architecture`` or ``teacher``, for the message.
        model: The two-stage detector; its mode is restored.
        stage: 0, or the stage of a cascade.

    Returns:
        A line for the log.

    Raises:
        ValueError: If a feature level has another stride than
            ``bbox_roi_extractor.featmap_strides`` says, the RoIs' features have
            another size than ``bbox_head`` takes, or the logits are not
            ``num_classes + 1`` columns.
    """
    head, training = box_head(key, model, stage), model.training
    extractor = model.get_submodule(roi_path(model, 'bbox_roi_extractor', stage))
    device = next(model.parameters()).device
    model.eval()  # a probe must not move BatchNorm's statistics
    feats = model.extract_feat(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=device))
    strides = list(getattr(extractor, 'featmap_strides', []))
    found = [_stride(feat) for feat in feats[: len(strides)]]
    if found != strides:
        raise ValueError(
            f'{key}.roi_head.bbox_roi_extractor.featmap_strides={strides}, but the '
            f'levels of its features have the strides {found}: RoIs would be cut out '
            'of the wrong places'
        )
    roi = torch.tensor([[0.0, 0, 0, PROBE_SIZE / 2, PROBE_SIZE / 2]], device=device)
    try:
        logits = box_forward(model, feats, roi, stage)
    except RuntimeError as error:
        raise ValueError(f'{_misfit(key, head, extractor)} ({error})') from error
    model.train(training)
    want = (1, head.num_classes + 1)
    if tuple(logits.shape) != want:
        raise ValueError(
            f'{key}.roi_head.bbox_head gives class logits of {tuple(logits.shape)} for '
            f'one RoI, expected {want}: num_classes and the background'
        )
    return f'{key}: RoIs from levels of strides {strides}, {want[1]} logits each'


def _misfit(key: str, head: nn.Module, extractor: nn.Module) -> str:
    layers = getattr(extractor, 'roi_layers', None) or [None]
    return (
        f'model.{key}.roi_head.bbox_head cannot take what bbox_roi_extractor gives: '
        f'bbox_roi_extractor.roi_layer.output_size='
        f'{getattr(layers[0], "output_size", "unknown")} and out_channels='
        f'{getattr(extractor, "out_channels", "unknown")}, expected bbox_head.'
        f'roi_feat_size={getattr(head, "roi_feat_size", "unknown")} and in_channels='
        f'{getattr(head, "in_channels", "unknown")}. Set output_size to roi_feat_size, '
        "and out_channels to in_channels and the neck's"
    )


@torch.no_grad()
def check_dense_head(key: str, model: BaseModel) -> str:
    """Run a one-stage detector on a made-up image, and compare with its config.

    Args:
        key: ``architecture`` or ``teacher``, for the message.
        model: The detector; its mode is restored.

    Returns:
        A line for the log.

    Raises:
        ValueError: If the levels of the logits have other strides than
            ``bbox_head.prior_generator`` says, another number of channels than its
            anchors and the classes make, or are probabilities.
    """
    head, training = dense_head(key, model), model.training
    generator = head.prior_generator
    size = getattr(generator, 'input_size', PROBE_SIZE)  # SSD is built for one
    device = next(model.parameters()).device
    model.eval()  # a probe must not move BatchNorm's statistics
    # Not zeros: an untrained head without biases would give zeros, as sigmoids might.
    image = torch.linspace(-2, 2, 3 * size**2, device=device).view(1, 3, size, size)
    levels = head(model.extract_feat(image))[0]
    model.train(training)
    strides = [stride[0] for stride in generator.strides]
    cells = [level.shape[-1] for level in levels]
    # SSD's strides of 100 and 300 are rounded ones.
    if len(cells) != len(strides) or any(
        abs(size / stride - cell) >= 1 for stride, cell in zip(strides, cells)
    ):
        raise ValueError(
            f'{key}.bbox_head.prior_generator.strides={strides}, but the levels of its '
            f'logits are {cells} wide for an image of {size} pixels: anchors or points '
            'would lie in the wrong places'
        )
    want = [num * head.cls_out_channels for num in generator.num_base_priors]
    channels = [level.shape[1] for level in levels]
    if channels != want:
        raise ValueError(
            f'{key}.bbox_head gives logits of {channels} channels, expected {want}: '
            f'num_base_priors={generator.num_base_priors} anchors or points with '
            f'{head.cls_out_channels} classes each'
        )
    if all(level.min() >= 0 and level.max() <= 1 for level in levels):
        raise ValueError(
            f'{key}.bbox_head ({type(head).__name__}) gives probabilities, all between '
            '0 and 1, where class logits are expected: take a detector whose head '
            'leaves the sigmoid to its loss'
        )
    return (
        f'{key}: {generator.num_base_priors} anchors or points a place at strides '
        f'{strides}, {head.cls_out_channels} logits each'
    )


def _stride(feat: Tensor) -> int:
    return round(PROBE_SIZE / feat.shape[-1])


def evaluate_teacher(
    runner: Runner, teacher: BaseModel, images: int
) -> tuple[str, float]:
    """Evaluate the teacher on the first validation images, by its own pixels.

    Args:
        runner: The runner, for ``val_dataloader`` and ``val_evaluator``.
        teacher: The detector.
        images: How many images; no more than there are.

    Returns:
        Name and value of the evaluator's first mAP.

    Raises:
        ValueError: If the config has no validation, or it gives no mAP.
    """
    if runner.val_loop is None:
        raise ValueError(
            'default_hooks.preflight.expect_map needs val_dataloader, val_cfg and '
            'val_evaluator'
        )
    dataset = runner.val_dataloader.dataset
    images = min(images, len(dataset))
    loader = runner.build_dataloader(
        {**runner.cfg.val_dataloader, 'dataset': Subset(dataset, range(images))}
    )
    evaluator = runner.build_evaluator(runner.cfg.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for metric in evaluator.metrics:
        # CocoMetric would count the images that were not looked at as misses.
        metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in range(images)]
    batches: Any = loader
    if is_main_process():
        batches = track_iter_progress((loader, len(loader)))
    with torch.no_grad():
        for batch in batches:
            evaluator.process(teacher.val_step(batch), batch)
    metrics = evaluator.evaluate(images)
    for name, value in metrics.items():
        if name.endswith('mAP'):
            return name, float(value)
    raise ValueError(
        'default_hooks.preflight.expect_map needs a val_evaluator with a metric named '
        f'*mAP, got {sorted(metrics)}'
    )
