from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ctkd_mm.checks.teacher import evaluate_teacher, match_classes
from ctkd_mm.models.heads.classes import TeacherClasses


class Oracle:
    """Detects exactly what is there.

    Its label of digit d is ``labels[d]``. Where it has more than the digits, it detects
    at each object one of another class too, with a higher score.
    """

    def __init__(self, labels: tuple[int, ...] = tuple(range(10))) -> None:
        self.images, self.labels = 0, torch.tensor(labels)

    def val_step(self, data: dict) -> list:
        for sample in data['data_samples']:
            self.images += 1
            truth = sample.gt_instances
            found = InstanceData(
                bboxes=truth.bboxes.tensor,
                labels=self.labels[truth.labels],
                scores=torch.full((len(truth),), 0.5),
            )
            other = InstanceData(
                bboxes=truth.bboxes.tensor + 1,
                labels=torch.full((len(truth),), 10),
                scores=torch.ones(len(truth)),
            )
            more = self.labels.max() > 9
            sample.pred_instances = InstanceData.cat(
                [found, other] if more else [found]
            )
        return data['data_samples']


@pytest.mark.start
def test_only_the_images_that_were_looked_at_count(demo_cfg):
    runner = Runner.from_cfg(demo_cfg)
    runner.build_val_loop(runner._val_loop)
    oracle = Oracle()
    name, value = evaluate_teacher(runner, oracle, images=2, classes=None)
    assert oracle.images == 2
    assert (name, value) == ('coco/bbox_mAP', 1.0)  # 4 images: half of it


@pytest.mark.start
def test_a_teacher_that_knows_more_is_evaluated_on_the_students_classes(demo_cfg):
    runner = Runner.from_cfg(demo_cfg)
    runner.build_val_loop(runner._val_loop)
    labels = (11, 9, 8, 7, 6, 5, 4, 3, 2, 1)  # 10 and 0 are no digits
    head = runner.model.student.roi_head.bbox_head
    more = copy.copy(head)
    more.num_classes = 12
    classes = TeacherClasses(labels, head, more)
    oracle = Oracle(labels)
    assert evaluate_teacher(runner, oracle, images=4, classes=classes)[1] == 1.0


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
