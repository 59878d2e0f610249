"""What a head's classes are, and which of a teacher's are the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctkd_mm.utils.messages import nearest, some
from ctkd_mm.utils.precision import at_least_float32


def has_sigmoid(head: nn.Module) -> bool:
    """Whether each column of a head's class logits is a sigmoid of its own.

    Otherwise they are a softmax, whose last column is the background.

    Args:
        head: ``bbox_head`` of a one-stage detector, or of a stage of a two-stage one.

    Returns:
        As MMDetection decides: dense heads by their number of columns, box heads of
        RoIs by ``loss_cls.use_sigmoid``.
    """
    if hasattr(head, 'prior_generator'):
        return head.cls_out_channels == head.num_classes
    return bool(getattr(head.loss_cls, 'use_sigmoid', False))


class TeacherClasses(nn.Module):
    """Makes the student's classes of the logits of a teacher that knows more.

    With z the teacher's logits and k(c) its column of the student's class c,

        z'_c = z_k(c),     z'_background = log( sum of exp(z_j) over all other j )

    Whatever the student does not know is background to it. The softmax of z' gives each
    class c exactly the probability that the softmax of z gives it. Sigmoid classes have
    no background: there the other columns are dropped.

    Args:
        classes: For each of the student's classes the teacher's, its index or its
            name; ``'by name'`` for the teacher's class of the same name; None for the
            same classes in the same order. Names are looked up before a training, by
            :class:`ctkd_mm.checks.preflight_hook.PreflightHook`.
        student: The student's head.
        teacher: The teacher's head.

    Raises:
        ValueError: If ``classes`` is another string, if a class of the student has none
            of the teacher's, or two have the same.
    """

    def __init__(self, classes: Any, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        if isinstance(classes, str) and classes != 'by name':
            raise ValueError(
                f"model.teacher_classes={classes!r} must be 'by name' or a list of the "
                "teacher's classes in the student's order"
            )
        self.classes, self.sigmoid, self.found = classes, has_sigmoid(teacher), False
        self.own, self.known = student.num_classes, teacher.num_classes
        # Not in checkpoints: config and data tell it again. As long from the start, as
        # EMAHook, which copies the model before names are known, copies buffers too.
        self.register_buffer('order', torch.arange(self.known + 1), persistent=False)
        if not any(isinstance(one, str) for one in classes or ()):
            self.find((), ())

    def find(self, names_T: Sequence[str], names_S: Sequence[str]) -> str:
        """Look the student's classes up among the teacher's.

        Args:
            names_T: The teacher's, in the order of its labels.
            names_S: The student's.

        Returns:
            What :meth:`summary` does.

        Raises:
            ValueError: If the teacher lacks a name, and see the class.
        """
        known = range(self.known)
        wanted = names_S if isinstance(self.classes, str) else self.classes or known
        lost = [x for x in wanted if isinstance(x, str) and x not in names_T]
        if lost:
            raise ValueError(
                f'model.teacher_classes: the teacher names {len(names_T)} classes, not '
                f'{some(f"{x!r}{nearest(x, names_T)}" for x in lost)}. List its own, '
                "or indices, in the student's order"
            )
        kept = [names_T.index(x) if isinstance(x, str) else x for x in wanted]
        if not len(kept) == len({*kept} & {*known}) == self.own:
            raise ValueError(
                f'num_classes is {self.own} in architecture, {self.known} in '
                f'teacher: model.teacher_classes={self.classes!r} must give each class '
                "another one of the teacher, 'by name' or in a list"
            )
        rest = sorted({*known, self.known} - {*kept})
        self.order.copy_(torch.tensor([*kept, *rest]))
        self.found = True
        return self.summary()

    def summary(self) -> str:
        """Return a line for the log."""
        return f'teacher classes: {self.own} of {self.known} {self.classes or "as is"}'

    def forward(self, preds: Tensor) -> Tensor:
        """Return logits (N, student's columns) for the teacher's (N, its columns).

        Raises:
            RuntimeError: If names have not been looked up.
        """
        if not self.found:
            raise RuntimeError('teacher_classes has names: add ctkd_mm.PreflightHook')
        if self.sigmoid:
            return preds.index_select(1, self.order[: self.own])
        preds = at_least_float32(preds.index_select(1, self.order))
        kept, rest = preds.tensor_split([self.own], dim=1)
        return torch.cat([kept, rest.logsumexp(dim=1, keepdim=True)], dim=1)

    def relabel(self, samples: list) -> None:
        """Give the teacher's predictions the student's labels; drop its other classes.

        Args:
            samples: ``DetDataSample`` of a batch; ``pred_instances`` are replaced.
        """
        for sample in samples:
            found = sample.pred_instances
            same = found.labels[:, None] == self.order[: self.own]
            found.labels = same.int().argmax(dim=1)
            sample.pred_instances = found[same.any(dim=1)]


def class_names(meta: dict) -> tuple[str, ...]:
    """Class names in the ``meta`` of a checkpoint, or in the ``metainfo`` of data.

    Args:
        meta: Of MMDetection 3 or 2.

    Returns:
        The names in the order of the labels; none if it has none.
    """
    meta = meta.get('dataset_meta') or meta
    return tuple(meta.get('classes', meta.get('CLASSES')) or ())
