"""The mAP of a teacher on the first validation images."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ctkd_mm.evaluation.teacher_map import evaluate_teacher
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
    name, value = evaluate_teacher(runner, oracle, images=2)
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
    assert evaluate_teacher(runner, oracle, images=4, relabel=classes.relabel)[1] == 1.0
