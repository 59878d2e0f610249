"""The teacher of MMRazor's own distillation is checked too; MMDetection's: test_ld."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from mmengine.runner import Runner

from ctkd_mm.models.teachers.load import teacher_of
from ctkd_mm.models.teachers.preprocessor import pixels_of
from ctkd_mm.utils.weights import weights_sha256


@pytest.fixture
def cfg(demo_cfg: Config) -> Config:
    """The demo's pair in MMRazor's own algorithm: one epoch, the RPN's logits."""
    pair = demo_cfg.pop('model')
    recorders = dict(rpn=dict(type='mmrazor.ModuleOutputs', source='rpn_head.rpn_cls'))
    demo_cfg.model = dict(
        type='mmrazor.SingleTeacherDistill',
        architecture=pair.architecture,
        teacher=Config.fromfile(pair.teacher).model,
        teacher_ckpt=pair.teacher_ckpt,
        distiller=dict(
            type='mmrazor.ConfigurableDistiller',
            student_recorders=recorders,
            teacher_recorders=recorders,
            distill_losses=dict(loss_rpn=dict(type='mmrazor.L2Loss')),
            loss_forward_mappings=dict(
                loss_rpn=dict(
                    s_feature=dict(recorder='rpn', from_student=True),
                    t_feature=dict(recorder='rpn', from_student=False),
                )
            ),
        ),
    )
    demo_cfg.custom_hooks = []
    demo_cfg.paramwise_cfg = demo_cfg.optim_wrapper.paramwise_cfg = None
    demo_cfg.train_cfg.max_epochs = 1
    return demo_cfg


def other_weights(cfg: Config, path, change) -> None:
    """Give the run a changed copy of its teacher's file."""
    checkpoint = torch.load(cfg.model.teacher_ckpt)
    change(checkpoint['state_dict'])
    torch.save(checkpoint, path)
    cfg.model.teacher_ckpt = str(path)


def test_the_teachers_hash_is_noted_and_compared_on_a_resume(cfg, tmp_path):
    Runner.from_cfg(copy.deepcopy(cfg)).train()
    meta = torch.load(f'{cfg.work_dir}/epoch_1.pth', weights_only=False)['meta']
    teacher = MODELS.build(copy.deepcopy(cfg.model.teacher))
    teacher.load_state_dict(torch.load(cfg.model.teacher_ckpt)['state_dict'])
    assert meta['teacher']['sha256'] == weights_sha256(teacher)

    other_weights(
        cfg, tmp_path / 'other.pth', lambda w: w['rpn_head.rpn_cls.bias'].add_(1)
    )
    cfg.update(load_from=f'{cfg.work_dir}/epoch_1.pth', resume=True)
    with pytest.raises(ValueError, match='trained with the teacher'):
        Runner.from_cfg(cfg).train()


def test_a_file_that_covers_a_part_is_refused(cfg, tmp_path):
    other_weights(cfg, tmp_path / 'part.pth', lambda w: w.pop('rpn_head.rpn_cls.bias'))
    with pytest.raises(ValueError, match='1 missing: rpn_head.rpn_cls.bias'):
        Runner.from_cfg(cfg).train()


def test_other_pixels_are_refused(cfg):
    cfg.model.teacher.data_preprocessor.std = [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match='shows the teacher the pixels of the student'):
        Runner.from_cfg(cfg).train()


def test_the_pixels_of_classifiers_are_compared_too():
    class Classifiers(BaseDataPreprocessor):  # as mmpretrain's, no ImgDataPreprocessor
        def __init__(self, mean, to_rgb=False):
            super().__init__()
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1))
            self.to_rgb = to_rgb

    one = Classifiers([1.0, 2, 3])
    assert pixels_of(one) == pixels_of(Classifiers([1.0, 2, 3]))
    assert pixels_of(one) != pixels_of(Classifiers([1.0, 2, 4]))
    assert pixels_of(one) != pixels_of(Classifiers([1.0, 2, 3], to_rgb=True))


def test_no_file_is_refused(cfg):
    cfg.model.teacher_ckpt = None
    with pytest.raises(ValueError, match='teacher_ckpt is None: .* would be random'):
        Runner.from_cfg(cfg).train()


def test_a_teacher_that_learns_is_none_of_ours(cfg):
    model = MODELS.build(cfg.model)
    assert teacher_of(model) is model.teacher
    model.teacher_trainable = True
    assert teacher_of(model) is None
