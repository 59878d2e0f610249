"""Collects the logits that a temperature gets in the first steps of a training."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from ctkd_mm.analysis.run_log import PathLike
from ctkd_mm.checks.dry_run import start
from ctkd_mm.engine.loops.seeded_data import seed_everything
from ctkd_mm.models.heads.roi_head import box_head
from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss, bernoulli_kl_div
from ctkd_mm.models.losses.dkd_loss import DKDLoss
from ctkd_mm.models.losses.kd_loss import kd_kl_div
from ctkd_mm.models.teachers.load import load_student
from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.models.temperatures.learned import LearnedTemperature

# Rows that are kept of a step; the millions of a dense head would add nothing.
MOST_ROWS = 8192


class Rows(NamedTuple):
    """Both models' logits for the same places, and the loss between them.

    Attributes:
        preds_S: The student's, (N, C).
        preds_T: The teacher's, (N, C).
        labels: Target classes, (N,); -1 where they are not known.
        loss_kd: The loss module around the temperature.
    """

    preds_S: Tensor
    preds_T: Tensor
    labels: Tensor
    loss_kd: nn.Module

    def loss(self, tau: float) -> float:
        """Mean over the rows of the loss at a temperature, without its weight.

        It is :func:`kd_kl_div`, or with ``DKDLoss`` and ``BernoulliCTKDLoss`` theirs.
        """
        args = self.preds_S, self.preds_T, self.preds_S.new_tensor([tau])
        if isinstance(self.loss_kd, DKDLoss):
            return self.loss_kd.divergence(*args, self.labels).item()
        sigmoid = isinstance(self.loss_kd, BernoulliCTKDLoss)
        return (bernoulli_kl_div if sigmoid else kd_kl_div)(*args).item()

    def scale(self) -> float:
        """Root mean square of all logits; of a softmax, less the mean of their row."""
        preds = torch.cat([self.preds_S, self.preds_T])
        if not isinstance(self.loss_kd, BernoulliCTKDLoss):
            preds = preds - preds.mean(dim=1, keepdim=True)
        return preds.square().mean().sqrt().item()

    def spread(self) -> list[float]:
        """Spread of a row over the classes, mean over rows.

        Returns:
            The standard deviation of teacher and student, then how far the highest
            logit is above the next, of teacher and student.
        """
        both = torch.stack([self.preds_T, self.preds_S])
        top = both.topk(min(2, both.size(2))).values
        margin = top[..., 0] - top[..., -1]
        stds = both.std(dim=2, unbiased=False)
        return torch.cat([stds, margin]).mean(dim=1).tolist()

    def select(self, rows: Tensor) -> Rows:
        """Return some of the rows, by a mask or by indices."""
        return Rows(*(field[rows] for field in self[:3]), self.loss_kd)


class LogitRecorder:
    """Keeps the logits that a temperature is called with.

    Args:
        name: Path of the temperature. The loss around it calls it with the logits of
            student and teacher, (N, C), after ``head``'s loss.
        model: Any module with that path.
        head: Box head of MMDetection whose classification loss is called with logits
            and labels of the same rows, if there is one.
    """

    def __init__(self, name: str, model: nn.Module, head: nn.Module | None) -> None:
        self.name, self.loss = name, model.get_submodule(name.rpartition('.')[0])
        # The label after those of the classes is the background's.
        self.num_classes = getattr(head, 'num_classes', 0)
        self._labels: Tensor | None = None
        self._steps: list[Rows] = []
        model.get_submodule(name).register_forward_pre_hook(self._keep_rows)
        if head is not None:
            head.loss_cls.register_forward_pre_hook(self._keep_labels)

    def _keep_labels(self, module: nn.Module, args: tuple) -> None:
        # The last of a step count: hard-example samplers score candidates before.
        self._labels = args[1]

    def _keep_rows(self, module: nn.Module, args: tuple) -> None:
        preds_S, preds_T = (preds.detach().double() for preds in args)
        labels, self._labels = self._labels, None
        if labels is None or len(labels) != len(preds_S):
            labels = preds_S.new_full((len(preds_S),), -1, dtype=torch.long)
        self._steps.append(_sample(Rows(preds_S, preds_T, labels, self.loss)))

    def parts(self) -> dict[str, Rows]:
        """Return all rows, and before them foreground and background if not empty."""
        steps = [rows[:3] for rows in self._steps if len(rows.labels)]
        if not steps:
            raise ValueError(f'{self.name} got no logits: take more images, with boxes')
        rows = Rows(*map(torch.cat, zip(*steps)), self.loss)
        background = rows.labels == self.num_classes
        masks = dict(foreground=(rows.labels >= 0) & ~background, background=background)
        parts = {part: rows.select(mask) for part, mask in masks.items() if mask.any()}
        return {**parts, 'all': rows}


def _sample(rows: Rows) -> Rows:
    """Draw at most ``MOST_ROWS``; those of sigmoids as often as they weigh."""
    if isinstance(rows.loss_kd, BernoulliCTKDLoss) and len(rows.labels):
        weights = rows.preds_T.amax(dim=1).sigmoid() ** rows.loss_kd.confidence
        return rows.select(weights.multinomial(MOST_ROWS, replacement=True))
    return rows.select(torch.randperm(len(rows.labels))[:MOST_ROWS].sort().values)


def collect(
    cfg: Config, images: int, student: PathLike | None = None
) -> tuple[int, list[LogitRecorder], float]:
    """Run the first steps of a training forward and keep its logits.

    Args:
        cfg: A complete config; unchanged. Without a ``randomness.seed`` it is 0.
        images: How many training images, rounded up to whole batches; at most the
            data set once.
        student: See :func:`load_student`; None leaves it as initialised.

    Returns:
        How many images there were; a recorder for each learnable temperature; and the
        mean of the student's own ``loss_cls``, 0 where it has none.

    Raises:
        ValueError: If the model has no learnable temperature, the checkpoint does not
            fit, and whatever a training would refuse.
    """
    cfg = copy.deepcopy(cfg)
    cfg.randomness = {'seed': 0, **cfg.get('randomness', {})}
    runner = start(cfg)
    model, loader = runner.model.train(), runner.train_dataloader
    if student is not None:
        load_student(getattr(model, 'student', model), student)
    found, count, own = watch(model), 0, []
    for iteration, batch in enumerate(loader):
        # As ReseedHook does: the samplers draw the RoIs of that iteration.
        seed_everything(runner.seed, 0, iteration)
        with torch.no_grad():
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
            logged = model.parse_losses(losses)[1].items()
        own.append(sum(float(v) for k, v in logged if k.endswith('loss_cls')))
        count += len(batch['inputs'])
        if count >= min(images, len(loader.dataset)):
            break
    return count, found, sum(own) / len(own)


def watch(model: BaseModel) -> list[LogitRecorder]:
    """Watch the learnable temperatures of a model; see :func:`collect`."""
    found = find_temperatures(model)
    found = {k: v for k, v in found.items() if isinstance(v, LearnedTemperature)}
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no learnable temperature: take a ctkd config'
        )
    head = None
    if hasattr(model, 'student_stage'):
        head = box_head('architecture', model.student, model.student_stage)
    return [LogitRecorder(name, model, head) for name in found]
