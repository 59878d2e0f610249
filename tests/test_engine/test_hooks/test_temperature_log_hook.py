from __future__ import annotations

import pytest
from helpers.logit_run import Distilled, make_runner

from ctkd_mm import CTKDLoss
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.models.temperatures.fixed import (
    ConstantTemperature,
    SharpnessTemperature,
    SpreadTemperature,
)

pytestmark = pytest.mark.start

HOOK = dict(type='ctkd_mm.TemperatureLogHook')
ONE_EPOCH = dict(by_epoch=True, max_epochs=1)


def last_line(tmp_path, model):
    make_runner(tmp_path, model, HOOK, ONE_EPOCH).train()
    return read_scalars(tmp_path)[-1]


def test_a_constant_temperature_is_logged_without_a_lambda(tmp_path):
    line = last_line(tmp_path, Distilled(ConstantTemperature(3)))
    assert line['tau'] == 3
    assert not {'lambda', 'tau_min', 'tau_max'} & line.keys()


def test_a_temperature_for_each_row_logs_its_spread(tmp_path):
    model = Distilled(SpreadTemperature(1))
    line = last_line(tmp_path, model)
    last = model.seen[-1]
    want = dict(tau=last.mean(), tau_min=last.min(), tau_max=last.max())
    assert {key: line[key] for key in want} == {k: v.item() for k, v in want.items()}


def test_two_temperatures_for_each_row_are_logged_by_model(tmp_path):
    model = Distilled(SharpnessTemperature(2))
    line = last_line(tmp_path, model)
    student, teacher = model.seen[-1].mean(dim=0)
    assert line['tau.S'] == pytest.approx(student.item())
    assert line['tau.T'] == pytest.approx(teacher.item())
    assert line['tau_min.S'] < line['tau.S'] < line['tau_max.S']
    assert student != teacher


def test_several_temperatures_are_logged_by_number_and_named_once(tmp_path):
    model = Distilled(ConstantTemperature(3))
    model.deep['other'] = CTKDLoss(ConstantTemperature(5))
    runner = make_runner(tmp_path, model, HOOK, ONE_EPOCH)
    runner.register_hook(dict(HOOK))
    runner.train()
    line = read_scalars(tmp_path)[-1]
    assert line['tau.0'] == 3
    assert 'tau.1' not in line  # never ran
    (log,) = tmp_path.glob('*/*.log')
    name = 'tau.1 is the temperature at deep.other.temperature'
    assert log.read_text().count(name) == 1
