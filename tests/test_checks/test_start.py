from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS

from ctkd_mm.checks.start import (
    check_resumed,
    check_weights,
    loss_settings,
    note_run,
)

TEMPERATURE = dict(type='ctkd_mm.GlobalTemperature', tau_range=20.0)
LOSS = dict(type='ctkd_mm.CTKDLoss', temperature=TEMPERATURE)


def run(loss: dict, sha256: str = 'a' * 64, **state) -> SimpleNamespace:
    model = SimpleNamespace(teacher_sha256=sha256, teacher_ckpt='t.pth')
    cfg = Config(dict(model=dict(loss_kd=copy.deepcopy(loss), teacher_ckpt='t.pth')))
    own = dict(param_schedulers=[object()], optim_wrapper=None, hooks=[])
    place = dict(_load_from='run/best.pth', work_dir='run')
    return SimpleNamespace(cfg=cfg, model=model, **{**own, **place, **state})


def saved(runner: SimpleNamespace) -> dict:
    """A checkpoint of a run, without its weights."""
    meta = dict(seed=0, epoch=1, iter=4)
    note_run(runner, meta)
    return dict(meta=meta, message_hub={}, optimizer={}, param_schedulers=[])


def test_the_settings_are_those_of_losses_and_temperatures():
    assert loss_settings(run(LOSS).cfg) == {
        'model.loss_kd.type': 'ctkd_mm.CTKDLoss',
        'model.loss_kd.temperature.type': 'ctkd_mm.GlobalTemperature',
        'model.loss_kd.temperature.tau_range': 20.0,
    }


def test_a_run_resumes_its_own_checkpoint():
    check_resumed(run(LOSS), saved(run(LOSS)))


LACKING = {
    'optimizer': {},
    'message_hub': {},
    'param_schedulers': {},
    'seed': {},
    'loss_scaler': dict(optim_wrapper=SimpleNamespace(loss_scaler=object())),
    'ema_state_dict': dict(hooks=[EMAHook()]),
}


@pytest.mark.parametrize('part', LACKING)
def test_a_part_of_the_state_that_the_checkpoint_lacks_is_named(part):
    checkpoint = saved(run(LOSS))
    checkpoint.pop(part, None)
    checkpoint['meta'].pop(part, None)
    runner = run(LOSS, **LACKING[part])
    with pytest.raises(ValueError) as caught:
        check_resumed(runner, checkpoint)
    assert str(caught.value) == (
        f'run/best.pth cannot be resumed: it has no {part}. Resume an epoch_*.pth or '
        'iter_*.pth of this run (best_*.pth are weights alone), or start a new run '
        'with load_from'
    )


def test_what_the_run_does_not_have_is_not_missed():
    checkpoint = saved(run(LOSS))
    del checkpoint['param_schedulers']
    check_resumed(run(LOSS, param_schedulers=None), checkpoint)


def test_bare_weights_are_not_resumed():
    with pytest.raises(ValueError, match='no optimizer, message_hub, seed and 1 more'):
        check_resumed(run(LOSS), dict(state_dict={}))


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        (dict(temperature=dict(tau_range=5.0)), 'temperature.tau_range=5.0, was 20.0'),
        (dict(loss_weight=2.0), 'loss_weight=2.0, was None'),
    ],
)
def test_another_distillation_loss_is_refused_with_both(change, line):
    other = Config(dict(loss=LOSS))
    other.merge_from_dict(dict(loss=change))
    message = re.escape(f'distillation: model.loss_kd.{line}. Give the')
    with pytest.raises(ValueError, match=message):
        check_resumed(run(other.loss), saved(run(LOSS)))


def test_a_number_written_in_another_way_is_the_same_loss():
    same = dict(LOSS, temperature=dict(TEMPERATURE, tau_range=20))
    check_resumed(run(same), saved(run(LOSS)))


@pytest.mark.parametrize(
    'key', ['bbox_head.loss_ld.loss_weight', 'distiller.distill_losses.kd.loss_weight']
)
def test_a_loss_elsewhere_in_the_model_counts_as_well(key):
    cfg = Config(dict(model={}))
    cfg.merge_from_dict({f'model.{key}': 2})
    assert loss_settings(cfg) == {f'model.{key}': 2}
    assert loss_settings(Config()) == {}  # a Runner without a config


def test_another_teacher_is_refused_with_both():
    words = f"teacher sha256='{'b' * 64}', was '{'a' * 64}'. Give the options and teach"
    with pytest.raises(ValueError, match=words):
        check_resumed(run(LOSS, 'b' * 64), saved(run(LOSS)))


def test_a_checkpoint_that_tells_neither_loss_nor_teacher_is_not_resumed():
    checkpoint = saved(run(LOSS))
    del checkpoint['meta']['distillation_loss'], checkpoint['meta']['teacher']
    with pytest.raises(ValueError, match=r"loss_kd\.type='ctkd_mm.CTKDLoss', was None"):
        check_resumed(run(LOSS), checkpoint)


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
