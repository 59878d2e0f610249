"""The logits that a temperature is shown in the first steps of a training."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from ctkd_mm.analysis.run_log import PathLike, load_student
from ctkd_mm.checks.dry_run import Stop, start
from ctkd_mm.engine.loops.seeded_data import seed_everything
from ctkd_mm.models.heads.roi_head import box_head
from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss, bernoulli_kl_div
from ctkd_mm.models.losses.dkd_loss import DKDLoss
from ctkd_mm.models.losses.kd_loss import kd_kl_div
from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.models.temperatures.learned import LearnedTemperature

# Rows that are kept of a step; the millions of a dense head would add nothing.
MOST_ROWS = 8192


@dataclass
class Rows:
    """Both models' logits for the same places, and the loss between them.

    Args:
        preds_S: The student's, (N, C).
        preds_T: The teacher's, (N, C).
        labels: Target classes, (N,); -1 where they are not known.
        loss_kd: The loss module around the temperature.
    """

    preds_S: Tensor
    preds_T: Tensor
    labels: Tensor
    loss_kd: nn.Module

    def __len__(self) -> int:
        """Return N."""
        return len(self.preds_S)

    def loss(self, tau: float) -> float:
        """Mean over the rows of the loss at a temperature, without its weight.

        :func:`kd_kl_div`, but DKD's and the sigmoids' divergence where the config has
        these losses.
        """
        args = self.preds_S, self.preds_T, self.preds_S.new_tensor([tau])
        if isinstance(self.loss_kd, DKDLoss):
            return self.loss_kd.divergence(*args, self.labels).item()
        of_sigmoids = isinstance(self.loss_kd, BernoulliCTKDLoss)
        return (bernoulli_kl_div if of_sigmoids else kd_kl_div)(*args).item()

    def scale(self) -> float:
        """Root mean square of both models' logits, of a softmax about their mean."""
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
        both = self.preds_T, self.preds_S
        tops = [preds.topk(min(2, preds.size(1)), dim=1).values for preds in both]
        stds = [preds.std(dim=1, unbiased=False) for preds in both]
        margins = [top[:, 0] - top[:, -1] for top in tops]
        return [rows.mean().item() for rows in (*stds, *margins)]

    def select(self, rows: Tensor) -> Rows:
        """Return some of the rows, by a mask or by indices."""
        kept = (preds[rows] for preds in (self.preds_S, self.preds_T, self.labels))
        return Rows(*kept, self.loss_kd)


class Seen:
    """Keeps what a temperature is shown, step by step.

    Args:
        name: Path of the temperature, which is called with both models' logits,
            (N, C), by the loss around it.
        model: Any module with that path.
        head: Box head of MMDetection whose classification loss is called with logits
            and labels of the same rows, if there is one.
    """

    def __init__(
        self, name: str, model: nn.Module, head: nn.Module | None = None
    ) -> None:
        self.name, self.loss = name, model.get_submodule(name.rpartition('.')[0])
        # The label after those of the classes is the background's.
        self.background = getattr(head, 'num_classes', None)
        self._calls: list[tuple[Tensor, ...]] = []
        self._labels: list[Tensor] = []
        self._steps: list[Rows] = []
        temperature = model.get_submodule(name)
        temperature.register_forward_pre_hook(self._look, with_kwargs=True)
        if head is not None:
            head.loss_cls.register_forward_pre_hook(self._look_at_labels)

    def _look(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        preds = [*args, *kwargs.values()][:2]
        self._calls.append(tuple(pred.detach().double() for pred in preds))

    def _look_at_labels(self, module: nn.Module, args: tuple) -> None:
        self._labels.append(args[1])

    def end_step(self) -> None:
        """Keep the rows of a step that is over."""
        for preds_S, preds_T in self._calls:
            labels = preds_S.new_full((len(preds_S),), -1, dtype=torch.long)
            # The last of a step: hard-example samplers score candidates before.
            if self._labels and len(self._labels[-1]) == len(labels):
                labels = self._labels[-1]
            self._steps.append(_drawn(Rows(preds_S, preds_T, labels, self.loss)))
        self._calls.clear()
        self._labels.clear()

    def parts(self) -> dict[str, Rows]:
        """Return all rows, and before them foreground and background if not empty."""
        fields = zip(*((r.preds_S, r.preds_T, r.labels) for r in self._steps))
        joined = [torch.cat(parts) for parts in fields]
        if not joined or not len(joined[0]):
            raise ValueError(
                f'{self.name} was shown no logits: the images gave no RoI. Take more '
                'images, or images with boxes (train_dataloader.dataset)'
            )
        rows = Rows(*joined, self.loss)
        if self.background is None or (rows.labels < 0).all():
            return dict(all=rows)
        background = rows.labels == self.background
        foreground = (rows.labels >= 0) & ~background
        masks = dict(foreground=foreground, background=background)
        parts = {part: rows.select(mask) for part, mask in masks.items() if mask.any()}
        return {**parts, 'all': rows}


def _drawn(rows: Rows) -> Rows:
    """Draw rows of a dense head as often as they weigh in the loss."""
    if isinstance(rows.loss_kd, BernoulliCTKDLoss) and len(rows):
        score = rows.preds_T.amax(dim=1).sigmoid()
        weights = score**rows.loss_kd.confidence
        return rows.select(weights.multinomial(MOST_ROWS, replacement=True))
    if len(rows) > MOST_ROWS:
        return rows.select(torch.randperm(len(rows))[:MOST_ROWS])
    return rows


def collect(
    cfg: Config, images: int, student: PathLike | None = None
) -> tuple[int, list[Seen]]:
    """Run the first steps of a training forward and keep its logits.

    Args:
        cfg: A complete config; unchanged. Without a ``randomness.seed`` it is 0.
        images: How many training images, rounded up to whole batches; at most the
            data set once.
        student: See :func:`load_student`; None leaves it as initialised.

    Returns:
        How many images there were, and a :class:`Seen` for each learnable temperature.

    Raises:
        ValueError: If the model has no learnable temperature, the checkpoint does not
            fit, and whatever a training would refuse.
    """
    cfg = copy.deepcopy(cfg)
    randomness = cfg.get('randomness') or {}
    cfg.randomness = {**randomness, 'seed': randomness.get('seed') or 0}
    runner = start(cfg, _StopAtOnce())
    model, loader = runner.model.train(), runner.train_dataloader
    if student is not None:
        load_student(getattr(model, 'student', model), student)
    found, count = watch(model), 0
    for iteration, batch in enumerate(loader):
        # As ReseedHook does: the samplers draw the RoIs of that iteration.
        seed_everything(runner.seed, 0, iteration)
        with torch.no_grad():
            model(**model.data_preprocessor(batch, True), mode='loss')
        for seen in found:
            seen.end_step()
        count += len(batch['inputs'])
        if count >= min(images, len(loader.dataset)):
            break
    return count, found


class _StopAtOnce(Hook):
    def before_train(self, runner: Runner) -> None:
        raise Stop


def watch(model: BaseModel) -> list[Seen]:
    """Watch the learnable temperatures of a model; see :func:`collect`."""
    found = find_temperatures(model)
    found = {k: v for k, v in found.items() if isinstance(v, LearnedTemperature)}
    if not found:
        raise ValueError(
            f'model.type={type(model).__name__} has no learnable temperature: give a '
            'config such as those in configs/ctkd, for example of the same pair'
        )
    head = None
    if hasattr(model, 'student_stage'):
        head = box_head('architecture', model.student, model.student_stage)
    return [Seen(name, model, head) for name in found]
