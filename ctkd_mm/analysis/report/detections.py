"""Evaluates the students and teachers of runs on the validation sets of the runs."""

from __future__ import annotations

import copy
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.utils import import_modules_from_strings

from ctkd_mm.analysis.report.figures import make_box, make_picture
from ctkd_mm.analysis.report.runs import RunRecord
from ctkd_mm.analysis.run_log import short_path
from ctkd_mm.models.heads.classes import class_names
from ctkd_mm.models.teachers.load import build_detector, build_student, load_teacher
from ctkd_mm.utils.weights import weights_sha256

PICTURES = 4
SCORE_THR = 0.3
IOU_THR = 0.5


class Detector:
    """What one set of weights detects, with the AP of each class.

    Args:
        val_set: Its images are searched.
        evaluator: ``val_evaluator`` of a config.
        model: The detector.

    Attributes:
        parameters: How many numbers are trained in it, temperatures not counted.
        overall: mAP over all classes, None where the evaluator gives none.
        per_class: Box AP of each class, empty unless the evaluator is COCO's.
        boxes: For each picture, what :func:`mark_hits` returns.
        runs: Names of the runs that trained it.
        pupils: Names of the runs that learned from it.
    """

    def __init__(self, val_set: ValSet, evaluator: Any, model: BaseModel) -> None:
        self.runs: list[str] = []
        self.pupils: list[str] = []
        self.parameters = sum(p.numel() for p in model.parameters())
        evaluator = Evaluator(copy.deepcopy(evaluator))
        evaluator.dataset_meta = val_set.loader.dataset.metainfo
        for metric in evaluator.metrics:
            if hasattr(metric, 'classwise'):  # COCO's
                # With masks too, the AP of each class would be that of the masks.
                metric.classwise, metric.metrics = True, ['bbox']
        truths = {one['path']: one['truth'] for one in val_set.pictures}
        boxes = {}
        model.to(get_device()).eval()
        with torch.no_grad():
            for batch in val_set.loader:
                samples = model.val_step(batch)
                evaluator.process(samples, batch)
                for sample in (one for one in samples if one.img_path in truths):
                    found, path = sample.pred_instances.cpu(), sample.img_path
                    boxes[path] = mark_hits(found, truths[path], val_set.classes)
        self.boxes = [boxes[one['path']] for one in val_set.pictures]
        metrics = evaluator.evaluate(val_set.size)
        named = {key.split('/', 1)[-1]: float(value) for key, value in metrics.items()}
        self.overall = next((v for k, v in named.items() if k.endswith('mAP')), None)
        aps = {name: named.get(f'{name}_precision') for name in val_set.classes}
        self.per_class = {name: ap for name, ap in aps.items() if ap is not None}


class ValSet:
    """A validation set, and what was detected in it.

    Args:
        config: Config of a run.

    Attributes:
        label: Its annotation file, or what kind of set it is.
        size: How many images it has.
        classes: Their names, in the order of the labels.
        contents: The classes, and of each image file name and annotations.
        pictures: ``PICTURES`` of its images, evenly spaced.
        detectors: By the hash of their weights.

    Raises:
        ValueError: If the config has no ``val_dataloader``.
    """

    def __init__(self, config: Config) -> None:
        if config.get('val_dataloader') is None:
            raise ValueError('its config has no val_dataloader')
        self.loader = Runner.build_dataloader(config.val_dataloader, 0)
        data = self.loader.dataset
        self.label = short_path(getattr(data, 'ann_file', '') or type(data).__name__)
        self.size, self.classes = len(data), data.metainfo['classes']
        infos = [data.get_data_info(i) for i in range(self.size)]
        images = [(Path(info['img_path']).name, info['instances']) for info in infos]
        self.contents = self.classes, images
        shown = infos[:: max(1, self.size // PICTURES)][:PICTURES]
        self.pictures = [make_picture(info, self.classes) for info in shown]
        self.detectors: dict[str, Detector] = {}


def evaluate_runs(runs: Sequence[RunRecord]) -> tuple[list[ValSet], dict[str, str]]:
    """Evaluate each run's checkpoint and its teacher, every set of weights once.

    Args:
        runs: The runs.

    Returns:
        The validation sets, one for all runs on the same images with the same
        annotations; and the reasons of what could not be evaluated, by its name.
    """
    # Without it each checkpoint and COCO's tables are logged.
    MMLogger.get_instance('report', log_level='WARNING')
    sets: list[ValSet] = []
    reasons: dict[str, str] = {}
    for load, role in ((_teacher, 'the teacher of '), (_student, '')):
        for run in runs:
            try:
                with redirect_stdout(io.StringIO()):  # pycocotools prints
                    _evaluate(sets, run, load, role)
            except Exception as error:  # detectors and data of any kind
                reasons[role + run.name] = str(error) or type(error).__name__
    return sets, reasons


def _teacher(run: RunRecord) -> BaseModel | None:
    teacher = run.model.get('teacher', run.model.get('teacher_config'))
    if teacher is None:
        return None
    if isinstance(teacher, dict):
        teacher = teacher.get('model', teacher)  # MMDetection's is a whole config
    model = build_detector(copy.deepcopy(teacher))
    ignored = run.model.get('teacher_ignore_keys', ())
    path = str(run.model.get('teacher_ckpt'))
    model.dataset_meta = load_teacher(model, path, ignored)
    return model


def _student(run: RunRecord) -> BaseModel:
    if run.checkpoint is None:
        raise FileNotFoundError(f'{run.path} holds no checkpoint')
    return build_student(run.model, run.checkpoint)


def _evaluate(sets: list[ValSet], run: RunRecord, load: Callable, role: str) -> None:
    """Evaluate a model, or find what equal weights gave on equal images."""
    if run.config.get('custom_imports'):
        import_modules_from_strings(**run.config.custom_imports)
    init_default_scope(run.config.get('default_scope') or 'mmdet')
    model = load(run)
    if model is None:
        return
    own, weights = ValSet(run.config), weights_sha256(model)
    if class_names(getattr(model, 'dataset_meta', {})) not in ((), tuple(own.classes)):
        raise ValueError('its classes are others: evaluate it on data of its own')
    val_set = next((one for one in sets if one.contents == own.contents), own)
    if weights not in val_set.detectors:
        # Standard output is redirected, see evaluate_runs.
        print(f'evaluating {role}{run.name}, {own.size} images', file=sys.stderr)
        val_set.detectors[weights] = Detector(own, run.config.val_evaluator, model)
    if val_set is own:
        sets.append(own)
    found = val_set.detectors[weights]
    (found.pupils if role else found.runs).append(run.name)


def mark_hits(
    found: InstanceData, truth: Sequence[dict], classes: Sequence[str]
) -> list[dict]:
    """Tell hits from misses among the detections with a score >= ``SCORE_THR``.

    Highest score first, a detection is a hit if an object of its class that no other
    has found overlaps with it by an IoU >= ``IOU_THR``.

    Args:
        found: ``bboxes`` (N, 4), x1 y1 x2 y2 in pixels, ``scores`` and ``labels`` (N,).
        truth: The objects, from :func:`make_picture`.
        classes: Names by label.

    Returns:
        ``corners`` (x1, y1, x2, y2), ``label``, ``text`` to show, and ``kind``: hit or
        miss.
    """
    from mmdet.structures.bbox import bbox_overlaps

    found = found[found.scores >= SCORE_THR]
    found = found[found.scores.argsort(descending=True)]
    objects = torch.tensor([one['corners'] for one in truth]).reshape(-1, 4)
    labels = torch.tensor([one['label'] for one in truth]).reshape(1, -1)
    overlaps = bbox_overlaps(found.bboxes.float(), objects.float())
    overlaps *= found.labels[:, None] == labels
    boxes = []
    for i, label in enumerate(found.labels.tolist()):
        hit = (overlaps[i] >= IOU_THR).any()
        if hit:
            overlaps[:, overlaps[i].argmax()] = 0
        text = f'{classes[label]} {found.scores[i]:.2f}'
        corners, kind = found.bboxes[i].tolist(), 'hit' if hit else 'miss'
        boxes.append(make_box(corners, label, text, kind))
    return boxes
