from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from ctkd_mm.checks.start import (
    check_resumed,
    check_weights,
    loss_settings,
    note_run,
)

TEMPERATURE = dict(type='ctkd_mm.GlobalTemperature', tau_range=20.0)
LOSS = dict(type='ctkd_mm.CTKDLoss', temperature=TEMPERATURE)


def run(loss: dict, sha256: str = 'a' * 64) -> SimpleNamespace:
    model = SimpleNamespace(teacher_sha256=sha256, teacher_ckpt='t.pth')
    cfg = Config(dict(model=dict(loss_kd=copy.deepcopy(loss), teacher_ckpt='t.pth')))
    return SimpleNamespace(cfg=cfg, model=model)


def test_the_settings_are_those_of_losses_and_temperatures():
    assert loss_settings(run(LOSS).cfg) == {
        'model.loss_kd.type': 'ctkd_mm.CTKDLoss',
        'model.loss_kd.temperature.type': 'ctkd_mm.GlobalTemperature',
        'model.loss_kd.temperature.tau_range': 20.0,
    }


def test_a_run_resumes_its_own_checkpoint():
    note_run(run(LOSS), meta := {})
    check_resumed(run(LOSS), meta)


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        (dict(temperature=dict(tau_range=5.0)), 'temperature.tau_range=5.0, was 20.0'),
        (dict(loss_weight=2.0), 'loss_weight=2.0, was None'),
    ],
)
def test_another_distillation_loss_is_refused_with_both(change, line):
    note_run(run(LOSS), meta := {})
    other = Config(dict(loss=LOSS))
    other.merge_from_dict(dict(loss=change))
    message = re.escape(f'loss: model.loss_kd.{line}. Give the')
    with pytest.raises(ValueError, match=message):
        check_resumed(run(other.loss), meta)


def test_a_number_written_in_another_way_is_the_same_loss():
    note_run(run(LOSS), meta := {})
    check_resumed(run(dict(LOSS, temperature=dict(TEMPERATURE, tau_range=20))), meta)


@pytest.mark.parametrize(
    'key', ['bbox_head.loss_ld.loss_weight', 'distiller.distill_losses.kd.loss_weight']
)
def test_a_loss_elsewhere_in_the_model_counts_as_well(key):
    cfg = Config(dict(model={}))
    cfg.merge_from_dict({f'model.{key}': 2})
    assert loss_settings(cfg) == {f'model.{key}': 2}
    assert loss_settings(Config()) == {}  # a Runner without a config


def test_another_teacher_is_refused_with_both():
    note_run(run(LOSS), meta := {})
    with pytest.raises(ValueError, match=f'{"a" * 64}.*{"b" * 64}.*the same teacher'):
        check_resumed(run(LOSS, 'b' * 64), meta)


def test_a_checkpoint_without_notes_is_resumed():
    check_resumed(run(LOSS), {})


def test_weights_that_fit_nowhere_are_refused_with_what_the_file_has(student_cfg):
    model = MODELS.build(student_cfg)
    runner = SimpleNamespace(
        model=model, _train_loop={}, _resume=False, _load_from='start.pth', work_dir=''
    )
    weights = model.state_dict()
    check_weights(runner, dict(state_dict=weights))
    lost = weights.pop('rpn_head.rpn_cls.weight')
    check_weights(runner, weights)  # a part is enough to start from
    wrong = {f'student.{name}': value for name, value in weights.items()}
    with pytest.raises(
        ValueError, match=r'start\.pth: (\d+) of \1 .* file has student'
    ):
        check_weights(runner, wrong)
    # A distillation is resumed or evaluated whole.
    model.teacher_sha256 = ''
    with pytest.raises(ValueError, match='1 of .* rpn_head.rpn_cls.weight for example'):
        check_weights(runner, weights)
    weights['rpn_head.rpn_cls.weight'] = lost[:1]
    with pytest.raises(ValueError, match='another shape, rpn_head.rpn_cls.weight'):
        check_weights(runner, weights)


@pytest.mark.parametrize('more', [{}, dict(meta=dict(epoch=1))])
def test_a_resume_from_weights_alone_is_refused(more):
    model = torch.nn.Linear(1, 1)
    runner = SimpleNamespace(
        model=model, _train_loop={}, _resume=True, _load_from='start.pth', work_dir=''
    )
    checkpoint = dict(more, state_dict=model.state_dict())
    with pytest.raises(ValueError, match=r'^start\.pth cannot be resumed'):
        check_weights(runner, checkpoint)
    check_weights(runner, dict(checkpoint, meta=dict(epoch=1), optimizer=dict(state=1)))
    runner._resume = False
    check_weights(runner, checkpoint)


def test_a_checkpoint_that_does_not_tell_its_loss_is_told(warnings):
    check_resumed(run(LOSS), {})
    assert warnings == [
        'the checkpoint does not tell its distillation loss: it is not compared'
    ]
