from __future__ import annotations

import pytest
import torch
from helpers.dense_detectors import narrow_detector
from helpers.two_stage_detectors import build_distiller, narrow_two_stage
from mmengine.hub import get_config
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm.models.losses.kinds import check_loss_fits_head
from ctkd_mm.registry import MODELS

GLOBAL = dict(type='ctkd_mm.GlobalTemperature')
CTKD = dict(type='ctkd_mm.CTKDLoss', temperature=GLOBAL)
BERNOULLI = dict(type='ctkd_mm.BernoulliCTKDLoss', temperature=GLOBAL)


def build_head(name: str) -> torch.nn.Module:
    """A box head of ten classes: sigmoid of RetinaNet, softmax of SSD or R-CNN."""
    if name == 'faster':
        cfg = narrow_two_stage(name).roi_head.bbox_head
    elif name == 'retinanet':
        cfg = narrow_detector(name).bbox_head
    else:
        cfg = get_config('mmdet::ssd/ssd300_coco.py').model.bbox_head
        cfg.num_classes = 10
    return ROOT_MODELS.build(cfg)


def test_a_loss_for_sigmoid_classes_is_refused_by_name(ctkd_cfg):
    ctkd_cfg['loss_kd']['type'] = 'ctkd_mm.BernoulliCTKDLoss'
    with pytest.raises(ValueError, match='BernoulliCTKDLoss, .* take ctkd_mm.CTKDLoss'):
        build_distiller(ctkd_cfg)


@pytest.mark.parametrize('loss', ['class', 'module', 'unknown'])
def test_a_loss_in_any_of_mmengines_forms_is_understood(ctkd_cfg, loss):
    from ctkd_mm import CTKDLoss, DKDLoss, GlobalTemperature, ZScoreLoss

    if loss == 'class':
        ctkd_cfg['loss_kd']['type'] = DKDLoss
    elif loss == 'module':
        inner = CTKDLoss(GlobalTemperature())
        ctkd_cfg['loss_kd'] = dict(type=ZScoreLoss, loss=inner)
    else:
        ctkd_cfg['loss_kd']['type'] = 'ctkd_mm.Missing'
        with pytest.raises(KeyError, match='ctkd_mm.Missing is not in the'):
            build_distiller(ctkd_cfg)
        return
    recorders = build_distiller(ctkd_cfg).distiller.student_recorders.recorders
    assert ('roi_labels' in recorders) == (loss == 'class')


def test_an_instance_temperature_for_other_classes_is_refused_at_build(
    ctkd_cfg,
):
    ctkd_cfg['loss_kd']['temperature'] = dict(
        type='ctkd_mm.InstanceTemperature', num_classes=80
    )
    message = 'loss_kd.temperature.num_classes=80 .* that of student and teacher, 10'
    with pytest.raises(ValueError, match=message):
        build_distiller(ctkd_cfg)


@pytest.mark.parametrize('name', ['retinanet', 'ssd', 'faster'])
def test_kinds_are_held_against_the_head(name):
    fitting = BERNOULLI if name == 'retinanet' else CTKD
    other = CTKD if name == 'retinanet' else BERNOULLI
    head = build_head(name)
    check_loss_fits_head(MODELS.build(fitting), head)
    for loss in (other, dict(type='ctkd_mm.ZScoreLoss', loss=other)):
        with pytest.raises(ValueError, match=other['type'].split('.')[1]):
            check_loss_fits_head(MODELS.build(loss), head)


def test_softmax_probabilities_of_sigmoid_classes_are_refused():
    instance = dict(type='ctkd_mm.InstanceTemperature', num_classes=10)
    loss = MODELS.build({**BERNOULLI, 'temperature': instance})
    with pytest.raises(ValueError, match='loss_kd has InstanceTemperature'):
        check_loss_fits_head(loss, build_head('retinanet'))


def test_a_loss_of_the_users_own_passes():
    for name in ('retinanet', 'faster'):
        check_loss_fits_head(torch.nn.MSELoss(), build_head(name))


def test_an_instance_temperature_of_the_heads_classes_passes():
    temperature = dict(type='ctkd_mm.InstanceTemperature', num_classes=10)
    loss = MODELS.build(dict(type='ctkd_mm.CTKDLoss', temperature=temperature))
    check_loss_fits_head(loss, build_head('faster'))
