"""What can be known before the first iteration is checked before it."""

from __future__ import annotations

from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader

from ctkd_mm.checks.config import (
    check_curriculum,
    check_custom_keys,
    check_hook_names,
    check_interval,
    check_num_classes,
)
from ctkd_mm.checks.evaluator_check import check_evaluator, check_save_best
from ctkd_mm.checks.key_check import (
    check_method,
    check_options,
    check_top_level,
    check_variables,
)
from ctkd_mm.checks.resume_check import check_resumed
from ctkd_mm.checks.start import check_start, check_weights
from ctkd_mm.checks.teacher import check_class_names, evaluate_teacher
from ctkd_mm.models.teachers.load import adopt_teacher, teacher_of
from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.registry import HOOKS
from ctkd_mm.utils.model import teaching, unwrapped
from ctkd_mm.utils.numbers import is_not_negative


@HOOKS.register_module()
class PreflightHook(Hook):
    """Refuses, before training, a run that would be wrong from the start.

    Checked are the config and the data sets (:mod:`ctkd_mm.checks.key_check`,
    :mod:`ctkd_mm.checks.config`, :mod:`ctkd_mm.checks.evaluator_check`,
    :mod:`ctkd_mm.checks.data`), what the training starts from
    (:mod:`ctkd_mm.checks.start`), and of a distillation that teacher and data have the
    same class names in the same order, as the checkpoint has that a run resumes or,
    with all of the student, starts from, that each model's feature levels have the
    strides its head takes them for, and that this gives the expected logits
    (:mod:`ctkd_mm.checks.teacher`). The teacher's weights were checked when they were
    loaded (:func:`ctkd_mm.models.teachers.load.load_teacher`); a teacher of MMRazor's
    or MMDetection's own distillation is loaded again for it
    (:mod:`ctkd_mm.models.teachers.load`). Their hash is logged, stored in every
    checkpoint, and compared on a resume, as is the loss
    (:mod:`ctkd_mm.checks.resume_check`).

    Args:
        expect_map: None, or ``dict(value=..., tol=..., images=K)``: evaluate the
            teacher on the first K validation images with the config's
            ``val_evaluator`` and refuse it below ``value - tol``. Done once a run, not
            again after a resume; the figure is logged as ``teacher/...`` with every
            validation of the student.

    Raises:
        ValueError: If ``expect_map`` has other keys or values out of range; before
            training, if a check fails; on a resume, if the teacher or the distillation
            loss is another one.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    priority = 'HIGH'

    def __init__(self, expect_map: dict | None = None) -> None:
        if expect_map is not None and not _is_expectation(expect_map):
            raise ValueError(
                'default_hooks.preflight.expect_map must be dict(value=0..1, '
                f'tol=0..1, images=>= 1), got {expect_map!r}'
            )
        self.expect_map = expect_map
        self.report: list[str] = []
        self.loaded: dict[str, dict] = {}

    def before_run(self, runner: Runner) -> None:
        """Load a teacher that is not ours again, strictly."""
        model, trains = unwrapped(runner), isinstance(runner._train_loop, BaseLoop)
        if trains and teacher_of(model) and not teaching(runner):
            adopt_teacher(model, runner.cfg.model.get('teacher_ckpt'))

    def before_train(self, runner: Runner) -> None:
        """Check everything; log a line for each check."""
        check_config(runner)
        check_start(runner)
        model = teaching(runner)
        if model is None:
            return
        self.report = [
            f'teacher_ckpt {model.teacher_ckpt}, weights sha256 {model.teacher_sha256}',
            check_class_names(
                {'teacher_ckpt': model.teacher_meta, **self.loaded},
                _dataloaders(runner),
            ),
            *(model.check_heads() if hasattr(model, 'check_heads') else ()),
        ]
        for line in self.report:
            runner.logger.info(f'preflight: {line}')
        if self.expect_map:
            self._check_map(runner, model)

    def before_test(self, runner: Runner) -> None:
        """Check that the evaluator reads the file of the test data."""
        check_evaluator(runner.cfg, 'test')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the weights fit, and that a resume has its teacher and loss."""
        lost = check_weights(runner, checkpoint)
        meta = checkpoint.get('meta') or {}
        if runner._resume:
            check_resumed(runner.cfg, meta)
        model = teaching(runner)
        if model is None:
            return
        if not runner._resume:
            temperatures = tuple(find_temperatures(model))
            if all(name.startswith(temperatures) for name in lost):
                # A head for other classes would, as a rule, have another shape.
                self.loaded = {'load_from': meta}
            return
        self.loaded = {'the resumed checkpoint': meta}
        before = meta.get('teacher')
        if before is not None and before['sha256'] != model.teacher_sha256:
            raise ValueError(
                f'the run was trained with the teacher {before["ckpt"]} (weights '
                f'sha256 {before["sha256"]}), now '
                f'model.teacher_ckpt={model.teacher_ckpt!r} has '
                f'{model.teacher_sha256}. Resume with the same teacher, or start a new '
                'run (load_from without --resume)'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note which teacher it was; the weights themselves are not stored."""
        model = teaching(runner)
        if model is not None:
            checkpoint['meta']['teacher'] = dict(
                ckpt=model.teacher_ckpt, sha256=model.teacher_sha256
            )

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Put the teacher's figure beside the student's."""
        known = runner.message_hub.runtime_info.get('teacher_map')
        if known:
            key = f'val/teacher/{known["metric"]}'
            runner.message_hub.update_scalar(key, known['value'])

    def _check_map(self, runner: Runner, model: BaseModel) -> None:
        want, hub = self.expect_map, runner.message_hub
        identity = dict(sha256=model.teacher_sha256, images=want['images'])
        known = hub.runtime_info.get('teacher_map', {})
        if not identity.items() <= known.items():
            metric, value = evaluate_teacher(runner, teacher_of(model), want['images'])
            known = dict(**identity, metric=metric, value=value)
            hub.update_info('teacher_map', known)
        images, loop = want['images'], runner.val_loop
        images = min(images, len(loop.dataloader.dataset)) if loop else images
        line = f'teacher {known["metric"]} {known["value"]:.4f} on {images} images'
        if known['value'] < want['value'] - want['tol']:
            raise ValueError(
                f'{line}, but expect_map asks for {want["value"]} - {want["tol"]}: is '
                f'model.teacher_ckpt={model.teacher_ckpt!r} the one, and does the data '
                'pipeline give what it was trained on?'
            )
        self.report.append(line)
        runner.logger.info(f'preflight: {line}')


def _is_expectation(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {'value', 'tol', 'images'}
        and all(is_not_negative(value[k]) and value[k] <= 1 for k in ('value', 'tol'))
        and isinstance(value['images'], int)
        and value['images'] >= 1
    )


def check_config(runner: Runner) -> None:
    """Check the config of any detector, distilled or not, and its data sets.

    Args:
        runner: The runner, with its training loop built.

    Raises:
        ValueError: See :mod:`ctkd_mm.checks.key_check`, :mod:`ctkd_mm.checks.config`,
            :mod:`ctkd_mm.checks.evaluator_check` and :mod:`ctkd_mm.checks.data`.
    """
    check_top_level(runner.cfg)
    check_variables(runner.cfg)
    check_options(runner.cfg)
    check_method(runner.cfg)
    if teaching(runner):
        check_hook_names(type(hook).__name__ for hook in runner.hooks)
    if runner.val_loop is not None:
        check_interval(runner.cfg)
        check_evaluator(runner.cfg, 'val')
        check_save_best(runner.cfg)
    loaders = _dataloaders(runner)
    # Once: on every rank, COCO's annotations would be in memory another time.
    error = [_data_error(loaders) if is_main_process() else None]
    broadcast_object_list(error)
    if error[0]:
        raise ValueError(error[0])
    for key, loader in loaders.items():
        check_num_classes(runner.model, loader.dataset, f'{key}.dataset')
    check_curriculum(runner.model, runner.hooks)
    check_custom_keys(runner.model, runner.cfg)


def _data_error(loaders: dict[str, DataLoader]) -> str | None:
    from ctkd_mm.checks.data import check_dataset

    try:
        for key, loader in loaders.items():
            check_dataset(loader.dataset, f'{key}.dataset')
    except Exception as error:  # whatever it is, the other ranks wait for it
        return str(error) or type(error).__name__
    return None


def _dataloaders(runner: Runner) -> dict[str, DataLoader]:
    loaders = dict(train_dataloader=runner.train_dataloader)
    if runner.val_loop is not None:
        loaders['val_dataloader'] = runner.val_dataloader
    return loaders
