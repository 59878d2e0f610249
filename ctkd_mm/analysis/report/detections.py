"""The runs' detectors and their teachers, evaluated on the runs' validation sets."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.structures import InstanceData
from mmengine.utils import import_modules_from_strings

from ctkd_mm.analysis.report.boxes import mark, picture
from ctkd_mm.analysis.report.runs import RunRecord
from ctkd_mm.analysis.run_log import short_path
from ctkd_mm.models.teachers.load import build_detector, load_teacher
from ctkd_mm.utils.weights import student_weights, weights_sha256

PICTURES = 4


@dataclass
class Detector:
    """What one set of weights detects.

    Attributes:
        runs: Names of the runs that trained it.
        pupils: Names of the runs that learned from it.
        parameters: How many numbers are trained in it, temperatures not counted.
        overall: mAP over all classes, None where the evaluator gives none.
        per_class: Box AP of each class, empty unless the evaluator is COCO's.
        boxes: For each picture, what ``report.boxes.mark`` returns.
    """

    runs: list[str]
    pupils: list[str]
    parameters: int
    overall: float | None
    per_class: dict[str, float]
    boxes: list[list[dict]]


class ValSet:
    """A validation set, and what was detected in it.

    Args:
        config: Config of a run.

    Attributes:
        label: Its annotation file, or what kind of set it is.
        size: How many images it has.
        classes: Their names, in the order of the labels.
        pictures: ``PICTURES`` of its images, evenly spaced.
        detectors: By the hash of their weights.

    Raises:
        ValueError: If the config has no ``val_dataloader``.
    """

    def __init__(self, config: Config) -> None:
        if config.get('val_dataloader') is None:
            raise ValueError('its config has no val_dataloader')
        loader = Runner.build_dataloader(copy.deepcopy(config.val_dataloader), seed=0)
        self.loader, dataset = loader, loader.dataset
        ann_file = getattr(dataset, 'ann_file', None)
        self.label = short_path(ann_file) if ann_file else type(dataset).__name__
        self.size, self.classes = len(dataset), dataset.metainfo['classes']
        infos = [dataset.get_data_info(i) for i in range(self.size)]
        self.contents = [
            (Path(one['img_path']).name, one['instances']) for one in infos
        ]
        shown = infos[:: max(1, self.size // PICTURES)][:PICTURES]
        self.pictures = [picture(info, self.classes) for info in shown]
        self.detectors: dict[str, Detector] = {}

    def is_like(self, other: ValSet) -> bool:
        """Whether both have the same classes, images and annotations."""
        return self.classes == other.classes and self.contents == other.contents


def evaluate_runs(runs: Sequence[RunRecord]) -> tuple[list[ValSet], dict[str, str]]:
    """Evaluate each run's checkpoint and its teacher, every set of weights once.

    Args:
        runs: The runs.

    Returns:
        The validation sets, one for all runs on the same images with the same
        annotations; and why something could not be evaluated, by what it is.
    """
    # Else each checkpoint is logged, and COCO's tables.
    MMLogger.get_instance('report', log_level='WARNING')
    sets: list[ValSet] = []
    reasons: dict[str, str] = {}
    for load, role in ((_load_teacher, 'the teacher of '), (_load_student, '')):
        for run in runs:
            try:
                _import_parts(run.config)
                model = load(run)
                if model is not None:
                    detector = _detector(_val_set(sets, run), run, model, role)
                    (detector.pupils if role else detector.runs).append(run.name)
            except Exception as error:  # detectors and data of any kind
                reasons[role + run.name] = str(error) or type(error).__name__
    return [known for known in sets if known.detectors], reasons


def _import_parts(config: Config) -> None:
    if config.get('custom_imports'):
        import_modules_from_strings(**config.custom_imports)
    init_default_scope(config.get('default_scope') or 'mmdet')


def _load_teacher(run: RunRecord) -> BaseModel | None:
    cfg = run.config.get('model') or {}
    teacher = cfg.get('teacher', cfg.get('teacher_config'))
    if teacher is None:
        return None
    if run.teacher is None:
        raise ValueError('model.teacher_ckpt of its config is None')
    model = build_detector(copy.deepcopy(teacher))
    load_teacher(model, run.teacher, cfg.get('teacher_ignore_keys', ()))
    return model


def _load_student(run: RunRecord) -> BaseModel:
    if run.checkpoint is None:
        raise FileNotFoundError(
            f'{run.path} holds no checkpoint: neither best_*.pth nor the one that '
            'last_checkpoint names'
        )
    cfg = copy.deepcopy(run.config.model)
    if 'architecture' not in cfg and 'teacher_ckpt' in cfg:
        cfg.teacher_ckpt = None  # MMDetection's own distillation: evaluated without
    model = build_detector(cfg.get('architecture', cfg))
    loaded = CheckpointLoader.load_checkpoint(str(run.checkpoint), map_location='cpu')
    weights = loaded.get('state_dict', loaded)
    student = student_weights(weights)
    model.load_state_dict(student or weights)
    return model


def _val_set(sets: list[ValSet], run: RunRecord) -> ValSet:
    """The run's validation set, or the one like it that is there already."""
    with redirect_stdout(io.StringIO()):  # pycocotools prints
        own = ValSet(run.config)
    if not any(known.is_like(own) for known in sets):
        sets.append(own)
    return next(known for known in sets if known.is_like(own))


def _detector(val_set: ValSet, run: RunRecord, model: BaseModel, role: str) -> Detector:
    """The model's results, from an earlier run where its weights are the same."""
    weights = weights_sha256(model)
    if weights not in val_set.detectors:
        print(f'evaluating {role}{run.name} on {val_set.size} images', flush=True)
        with redirect_stdout(io.StringIO()):
            val_set.detectors[weights] = evaluate(
                val_set, run.config.val_evaluator, model
            )
    return val_set.detectors[weights]


def evaluate(val_set: ValSet, evaluator: Any, model: BaseModel) -> Detector:
    """Evaluate a detector, with the AP of each class.

    Args:
        val_set: The validation set.
        evaluator: ``val_evaluator`` of a config.
        model: The detector.

    Returns:
        What it detects; ``runs`` and ``pupils`` empty.
    """
    from mmdet.evaluation import CocoMetric

    evaluator = Evaluator(copy.deepcopy(evaluator))
    evaluator.dataset_meta = val_set.loader.dataset.metainfo
    for metric in evaluator.metrics:
        if isinstance(metric, CocoMetric):
            # Of boxes and masks together it would give the masks' AP of the classes.
            metric.classwise, metric.metrics = True, ['bbox']
    found: dict[str, InstanceData] = dict.fromkeys(p['path'] for p in val_set.pictures)
    model.to(get_device()).eval()
    with torch.no_grad():
        for batch in val_set.loader:
            samples = model.val_step(batch)
            evaluator.process(samples, batch)
            for sample in samples:
                if sample.img_path in found:
                    found[sample.img_path] = sample.pred_instances.cpu()
    metrics = evaluator.evaluate(val_set.size)
    named = {key.split('/', 1)[-1]: float(value) for key, value in metrics.items()}
    per_class = {name: named.get(f'{name}_precision') for name in val_set.classes}
    return Detector(
        runs=[],
        pupils=[],
        parameters=sum(p.numel() for p in model.parameters()),
        overall=next((v for k, v in named.items() if k.endswith('mAP')), None),
        per_class={name: ap for name, ap in per_class.items() if ap is not None},
        boxes=[
            mark(found[p['path']], p['truth'], val_set.classes)
            for p in val_set.pictures
        ],
    )
