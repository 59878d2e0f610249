"""The first steps of a training, forward only, for what a temperature is shown."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

from ctkd_mm.analysis.suggest.shown_logits import Seen
from ctkd_mm.checks.dry_run import Stop, start
from ctkd_mm.engine.loops.seeded_data import seed_everything
from ctkd_mm.models.heads.roi_head import box_head
from ctkd_mm.models.losses.zscore_loss import AroundLoss
from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.models.temperatures.learned import LearnedTemperature
from ctkd_mm.utils.messages import some
from ctkd_mm.utils.weights import student_weights


def collect(
    cfg: Config, images: int, student: str | Path | None = None
) -> tuple[int, list[Seen]]:
    """Run the first steps of a training forward and keep its logits.

    Args:
        cfg: A complete config; unchanged. Without a ``randomness.seed`` it is 0.
        images: How many training images, rounded up to whole batches; at most the
            data set once.
        student: See :func:`load_student`; None leaves it as initialised.

    Returns:
        How many images it were, and a :class:`Seen` for each learnable temperature;
        for each other temperature, or else for ``loss_kd``, if none is learnable.

    Raises:
        ValueError: If the config is no distillation, the checkpoint does not fit, and
            whatever a training would refuse.
    """
    cfg = copy.deepcopy(cfg)
    randomness = cfg.get('randomness') or {}
    cfg.randomness = {**randomness, 'seed': randomness.get('seed') or 0}
    look = _Look(images, student)
    start(cfg, look)
    return look.count, look.seen


class _Look(Hook):
    """Runs the first steps of a training, forward only, and ends it."""

    def __init__(self, images: int, student: str | Path | None) -> None:
        self.images, self.student = images, student
        self.count = 0

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        if self.student is not None:
            load_student(getattr(model, 'student', model), self.student)
        self.seen = watch(model)
        model.train()
        images = min(self.images, len(runner.train_dataloader.dataset))
        for iteration, batch in enumerate(runner.train_dataloader):
            # As ReseedHook does: the samplers draw the RoIs of that iteration.
            seed_everything(runner.seed, 0, iteration)
            with torch.no_grad():
                model(**model.data_preprocessor(batch, True), mode='loss')
            for seen in self.seen:
                seen.end_step()
            self.count += len(batch['inputs'])
            if self.count >= images:
                break
        raise Stop


def watch(model: BaseModel) -> list[Seen]:
    """Watch the temperatures of a model; see :func:`collect`."""
    found = find_temperatures(model)
    learnable = {k: v for k, v in found.items() if isinstance(v, LearnedTemperature)}
    found = learnable or found
    losses = getattr(getattr(model, 'distiller', None), 'distill_losses', {})
    if not found and 'loss_kd' in losses:
        name, loss = 'distiller.distill_losses.loss_kd', losses['loss_kd']
        while isinstance(loss, AroundLoss):  # it changes the logits
            name, loss = f'{name}.loss', loss.loss
        found = {name: loss}
    if not found:
        raise ValueError(
            f'model.type={type(model).__name__} has no temperature and no loss_kd: '
            'give a config of a distillation, such as those in configs/ctkd'
        )
    of_labels = {}
    if hasattr(model, 'student_stage'):
        head = box_head('architecture', model.student, model.student_stage)
        of_labels = dict(labels=head.loss_cls, background=head.num_classes)
    return [
        Seen(name, module, model.get_submodule(name.rpartition('.')[0]), **of_labels)
        for name, module in found.items()
    ]


def load_student(student: BaseModel, checkpoint: str | Path) -> None:
    """Load a trained student, all of it.

    Args:
        student: The model; its weights are replaced.
        checkpoint: Path or URL of a student's checkpoint, or of a distillation's.

    Raises:
        ValueError: If a weight is missing, unexpected or of another shape.
    """
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    weights = loaded.get('state_dict', loaded)
    weights = student_weights(weights) or weights
    own = {key: value.shape for key, value in student.state_dict().items()}
    found = {key: getattr(value, 'shape', None) for key, value in weights.items()}
    # A temperature in the student's own head is what is sought.
    wrong = sorted(
        key
        for key in own.keys() | found.keys()
        if own.get(key) != found.get(key)
        and 'num_batches_tracked' not in key
        and '.temperature.' not in key
    )
    if wrong:
        raise ValueError(
            f'--student={checkpoint} does not fit the student '
            f'({type(student).__name__}, {len(own)} weights): {len(wrong)} missing, '
            f'unexpected or of another shape: {some(wrong)}. Give a checkpoint that '
            'was trained with the config in model.architecture, alone or distilled'
        )
    student.load_state_dict(weights, strict=False)
