from __future__ import annotations

from types import SimpleNamespace

import pytest

from ctkd_mm.checks.teacher import match_classes
from ctkd_mm.models.heads.classes import TeacherClasses


def model(classes: TeacherClasses | None = None, **parts) -> SimpleNamespace:
    meta = dict(dataset_meta=dict(classes=tuple('abcd')))
    return SimpleNamespace(teacher_meta=meta, teacher_classes=classes, **parts)


class Chosen:
    """What the names are looked up for."""

    classes = 'by name'

    def find(self, names_T: tuple, names_S: tuple) -> str:
        return f'{names_S} of {names_T}'


def test_the_names_of_a_teacher_that_knows_more_are_looked_up():
    metas = dict(train={}, val=dict(classes=('d', 'a')))
    assert match_classes(model(Chosen()), metas) == [
        '2 classes, the same in val; no names to compare in train',
        "('d', 'a') of ('a', 'b', 'c', 'd')",
    ]
    metas['train'] = dict(classes=('a', 'd'))
    with pytest.raises(ValueError, match="class 0 is 'a' in train .* 'd' in val"):
        match_classes(model(Chosen()), metas)


def test_a_teacher_of_box_edges_may_have_other_classes():
    metas = dict(train=dict(classes=('x', 'y')))
    head = SimpleNamespace(loss_ld=None)
    lines = match_classes(model(bbox_head=head), metas)
    assert lines == ['2 classes, the same in train']
    with pytest.raises(ValueError, match="class 0 is 'a' in teacher_ckpt"):
        match_classes(model(bbox_head=SimpleNamespace()), metas)
