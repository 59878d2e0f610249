"""The hook that checks a training before its first iteration."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ctkd_mm.checks import config, data, start
from ctkd_mm.checks.teacher import match_classes
from ctkd_mm.evaluation.teacher_map import evaluate_teacher
from ctkd_mm.models.teachers.load import adopt_teacher, teacher_of
from ctkd_mm.registry import HOOKS
from ctkd_mm.utils.model import data_sets, resumes, teaching, trains, unwrapped

# Faults that no error shows, and that come from distillation or from the shipped
# configs, or make the mAP wrong. A rule gets the runner and yields a sentence a fault.
RULES = [
    ('a setting in a place where nothing reads it', config.left_at_the_top, 'refuse'),
    ('a learnable temperature without lambda', config.no_curriculum, 'refuse'),
    ('annotations that hide each other, labels', data.wrong_annotations, 'refuse'),
    ('heads of other classes', config.other_classes, 'refuse'),
    ('an mAP of other images or objects', data.wrong_map, 'refuse'),
    ('images as they are loaded', data.wrong_samples, 'refuse'),
    ('names of a detector', lambda run: config.other_constructor(run.cfg), 'warn'),
    ('a frozen random backbone', config.frozen_random_backbone, 'warn'),
]


@HOOKS.register_module()
class PreflightHook(Hook):
    """Refuses a training that would go wrong without an error.

    Every training has to pass ``RULES``. In a distillation, teacher, data and a resumed
    checkpoint must have the same class names in the same order, or the teacher those of
    ``model.teacher_classes``, which are looked up here; each model's features
    must have the strides, and its logits the columns, that its head's config says
    (``check_heads``); a resume needs the run's whole state, teacher and loss. The
    teacher of MMRazor's or MMDetection's own distillation is loaded again, strictly.
    The hash of the teacher's weights is logged and stored in every checkpoint.

    Args:
        expect_map: None, or ``dict(value=..., tol=..., images=K)``: evaluate the
            teacher on the first K validation images with the config's
            ``val_evaluator`` and refuse it below ``value - tol``. Done at every start;
            the figure is logged as ``teacher/...`` with each of the student's.

    Raises:
        TypeError: Before training, if ``expect_map`` has other keys.
        ValueError: Before training, if a check fails.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    priority = 'HIGH'

    def __init__(self, expect_map: dict | None = None) -> None:
        self.expect_map = expect_map
        self.report: list[str] = []
        self.loaded: dict[str, dict] = {}
        self.teacher_map: dict[str, float] = {}

    def before_run(self, runner: Runner) -> None:
        """Load the teacher of MMRazor's or MMDetection's distillation strictly."""
        model = unwrapped(runner)
        if trains(runner) and teacher_of(model) and not teaching(runner):
            adopt_teacher(model, runner.cfg.model.get('teacher_ckpt'))

    def before_train(self, runner: Runner) -> None:
        """Apply the rules; log a line for each check of the pair."""
        apply_rules(runner)
        model = teaching(runner)
        if model is None:
            return
        metas = dict(self.loaded)
        for key, part in data_sets(runner):
            metas[key] = getattr(part, 'metainfo', None) or {}
        self.report = [
            f'teacher_ckpt {model.teacher_ckpt}, weights sha256 {model.teacher_sha256}',
            *match_classes(model, metas),
        ]
        # One of ours may compute in one type only.
        with getattr(model, 'teaching', nullcontext)():
            if hasattr(model, 'check_heads'):
                self.report += model.check_heads()
            if self.expect_map:
                self.report.append(self._check_map(runner, **self.expect_map))
        for line in self.report:
            runner.logger.info(f'preflight: {line}')

    def before_test(self, runner: Runner) -> None:
        """Check that the evaluator counts what the test data shows."""
        for fault in data.wrong_map(runner, 'test'):
            raise ValueError(fault)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the weights fit, and that a resume has all that it continues."""
        start.check_weights(runner, checkpoint)
        if resumes(runner) and trains(runner):
            start.check_resumed(runner, checkpoint)
            self.loaded = {'the resumed checkpoint': checkpoint['meta']}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the loss and the teacher; the teacher's weights are not stored."""
        start.note_run(runner, checkpoint['meta'])

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Put the teacher's figure beside the student's."""
        for key, value in self.teacher_map.items():
            runner.message_hub.update_scalar(f'val/teacher/{key}', value)

    def _check_map(self, runner: Runner, value: float, tol: float, images: int) -> str:
        model = teaching(runner)
        images = min(images, len(runner.val_dataloader.dataset))
        relabel = getattr(getattr(model, 'teacher_classes', None), 'relabel', None)
        metric, found = evaluate_teacher(runner, teacher_of(model), images, relabel)
        self.teacher_map = {metric: found}
        line = f'teacher {metric} {found:.4f} on {images} images'
        if found < value - tol:
            raise ValueError(
                f'{line}, but expect_map asks for {value} - {tol}. Check '
                f'model.teacher_ckpt={model.teacher_ckpt!r} and the data pipeline'
            )
        return line


def apply_rules(runner: Runner) -> None:
    """Apply ``RULES`` to a training of any detector, distilled or not.

    Args:
        runner: The runner, with its training loop built.

    Raises:
        ValueError: At the first fault that a rule refuses.
    """
    # Once: on every rank, COCO's annotations would be in memory another time.
    refused = [_first_refusal(runner) if is_main_process() else None]
    broadcast_object_list(refused)
    if refused[0]:
        raise ValueError(refused[0])


def _first_refusal(runner: Runner) -> str | None:
    for name, rule, verdict in RULES:
        try:
            for fault in rule(runner):
                if verdict == 'refuse':
                    return fault
                print_log(fault, 'current', logging.WARNING)
        except Exception as error:  # the other ranks wait for a result
            return f'{name}: {type(error).__name__}: {error}'
