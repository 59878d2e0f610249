"""What a temperature is shown: both models' logits for the same places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss, bernoulli_kl_div
from ctkd_mm.models.losses.dkd_loss import DKDLoss
from ctkd_mm.models.losses.kd_loss import kd_kl_div

# Rows that are kept of a step; the millions of a dense head would add nothing.
MOST_ROWS = 8192


class Rows:
    """Both models' logits for the same places, and the loss between them.

    Args:
        preds_S: The student's, (N, C).
        preds_T: The teacher's, (N, C).
        labels: Target classes, (N,); -1 where they are not known.
        loss: The loss module around the temperature.
    """

    def __init__(
        self, preds_S: Tensor, preds_T: Tensor, labels: Tensor, loss: nn.Module
    ) -> None:
        self.preds_S, self.preds_T, self.labels = preds_S, preds_T, labels
        self._loss = loss

    def __len__(self) -> int:
        """Return N."""
        return len(self.preds_S)

    def loss(self, tau: float) -> float:
        """Mean over the rows of the loss at a temperature, without its weight.

        :func:`kd_kl_div`, but DKD's and the sigmoids' divergence where the config has
        these losses.
        """
        tau = self.preds_S.new_tensor([tau])
        if isinstance(self._loss, DKDLoss):
            value = self._loss.divergence(self.preds_S, self.preds_T, tau, self.labels)
        elif isinstance(self._loss, BernoulliCTKDLoss):
            value = bernoulli_kl_div(self.preds_S, self.preds_T, tau)
        else:
            value = kd_kl_div(self.preds_S, self.preds_T, tau)
        return value.item()

    def scale(self) -> float:
        """Root mean square of both models' logits, of a softmax about their mean."""
        preds = torch.cat([self.preds_S, self.preds_T])
        if not isinstance(self._loss, BernoulliCTKDLoss):
            preds = preds - preds.mean(dim=1, keepdim=True)
        return preds.square().mean().sqrt().item()

    def std(self) -> list[float]:
        """Standard deviation over the classes, mean over rows: teacher, student."""
        both = self.preds_T, self.preds_S
        return [preds.std(dim=1, unbiased=False).mean().item() for preds in both]

    def margin(self) -> list[float]:
        """How far the highest logit is above the next, mean: teacher, student."""
        both = self.preds_T, self.preds_S
        best = (preds.topk(min(2, preds.size(1)), dim=1).values for preds in both)
        return [(top[:, 0] - top[:, -1]).mean().item() for top in best]

    def select(self, rows: Tensor) -> Rows:
        """Return some of the rows, by a mask or by indices."""
        return Rows(
            self.preds_S[rows], self.preds_T[rows], self.labels[rows], self._loss
        )


class Seen:
    """Keeps what a temperature is shown, step by step.

    Args:
        name: Path of the temperature in the model; without one, of the loss.
        module: That module, called with student and teacher logits, (N, C).
        loss: The loss around the temperature.
        labels: Module called with logits and labels of the same rows, if there is one.
        background: The label of the background; None where there is none.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        loss: nn.Module,
        labels: nn.Module | None = None,
        background: int | None = None,
    ) -> None:
        self.name, self.module, self.loss = name, module, loss
        self.background = background
        self._calls: list[tuple[Tensor, ...]] = []
        self._labels: list[Tensor] = []
        self._steps: list[Rows] = []
        module.register_forward_pre_hook(self._look, with_kwargs=True)
        if labels is not None:
            labels.register_forward_pre_hook(self._look_at_labels)

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
            rows = Rows(preds_S, preds_T, labels, self.loss)
            self._steps.append(self._draw(rows))
        self._calls, self._labels = [], []

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
        parts = dict(
            foreground=rows.select(foreground), background=rows.select(background)
        )
        return {**{k: part for k, part in parts.items() if len(part)}, 'all': rows}

    def _draw(self, rows: Rows) -> Rows:
        """Draw rows of a dense head as often as they weigh in the loss."""
        if isinstance(self.loss, BernoulliCTKDLoss) and len(rows):
            score = rows.preds_T.amax(dim=1).sigmoid()
            drawn = (score**self.loss.confidence).multinomial(MOST_ROWS, True)
            return rows.select(drawn)
        if len(rows) > MOST_ROWS:
            return rows.select(torch.randperm(len(rows))[:MOST_ROWS])
        return rows
