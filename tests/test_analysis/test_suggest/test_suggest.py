from __future__ import annotations

import copy
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config, DictAction

from ctkd_mm import CTKDLoss
from ctkd_mm.analysis.suggest.shown_logits import Rows
from ctkd_mm.analysis.suggest.suggest import config_key, draw, suggest_temperature
from ctkd_mm.analysis.suggest.tau_curve import TauCurve
from ctkd_mm.models.temperatures.base import find_temperatures
from ctkd_mm.registry import MODELS

CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
GLOBAL = dict(type='ctkd_mm.GlobalTemperature')


def options_of(report: list[str]) -> dict[str, float]:
    (line,) = [line for line in report if 'tau_init=' in line]
    pairs = line.replace('--cfg-options ', '').split(' ')
    return {k: DictAction._parse_iterable(v) for k, v in (p.split('=') for p in pairs)}


@pytest.fixture(scope='module')
def report(suggest_cfg, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        out = tmp_path_factory.mktemp('curve') / 'c.png'
        return suggest_temperature(suggest_cfg, 8, out=out)


@pytest.mark.start
def test_the_last_line_gives_the_config_the_suggested_range(report, shown, demo_cfg):
    assert report[0] == '8 training images, student as initialised'
    rows = shown.parts()['all']
    want = TauCurve(rows.loss, rows.scale()).tau_range()
    demo_cfg.merge_from_dict(options_of(report))
    temperature = MODELS.build(demo_cfg.model.loss_kd.temperature)
    assert temperature.tau_init == pytest.approx(want.tau_init, rel=0.005)
    assert temperature.tau_range == pytest.approx(want.tau_range, rel=0.005)
    assert temperature(None, None).item() == pytest.approx(want.tau_start, rel=0.005)


@pytest.mark.start
def test_the_weight_keeps_the_loss_below_the_students_own(report, shown, demo_cfg):
    (line,) = [line for line in report if line.startswith('loss ')]
    start, highest, loss_cls = map(float, re.findall(r'[\d.]+', line))
    rows = shown.parts()['all']
    low, width, at_start = TauCurve(rows.loss, rows.scale()).tau_range()
    assert start == pytest.approx(rows.loss(at_start), rel=0.005)
    taus = np.linspace(low, low + width, 200)
    assert highest == pytest.approx(max(map(rows.loss, taus)), rel=0.01)
    weight = options_of(report)['model.loss_kd.loss_weight']
    assert weight == pytest.approx(min(1, loss_cls / highest), rel=0.05)
    demo_cfg.merge_from_dict(options_of(report))
    assert demo_cfg.model.loss_kd.loss_weight == weight


@pytest.mark.start
def test_a_row_of_the_table_has_each_figure_below_its_heading(report, shown):
    head, row = report[2].strip(), report[3].split()
    assert row[0] == 'foreground'
    values = dict(zip(re.split(' {2,}', head), row[1:]))
    rows = shown.parts()['foreground']
    S, T = rows.preds_S.numpy(), rows.preds_T.numpy()
    best = {name: np.sort(preds) for name, preds in dict(T=T, S=S).items()}
    want = {
        'rows': len(S),
        'std T': T.std(1).mean(),
        'std S': S.std(1).mean(),
        'margin T': (best['T'][:, -1] - best['T'][:, -2]).mean(),
        'margin S': (best['S'][:, -1] - best['S'][:, -2]).mean(),
        'end': 0.5 * (T - S).var(1).mean(),  # the limit of tau² KL for large tau
    }
    assert {k: float(values[k]) for k in want} == pytest.approx(want, rel=0.006)


def test_the_curve_of_each_part_is_drawn(tmp_path):
    preds_S, preds_T = torch.randn(2, 40, 5).double()
    loss = CTKDLoss(GLOBAL)
    rows = Rows(preds_S, 3 * preds_T, torch.zeros(40), loss)
    parts = {
        part: TauCurve(rows.select(slice(start, None)).loss, rows.scale())
        for start, part in zip((0, 10, 30), ('foreground', 'background', 'all'))
    }
    out = draw({'loss_kd.temperature': parts}, tmp_path / 'new' / 'c.png')
    image = cv2.imread(str(out))
    # Green, orange and blue, as matplotlib has them.
    for blue, green, red in [(44, 160, 44), (14, 127, 255), (180, 119, 31)]:
        off = abs(image.astype(int) - (blue, green, red)).sum(2)
        assert (off < 12).sum() > 200


@pytest.mark.start
def test_a_pairs_logits_times_a_give_a_range_times_a(shown):
    rows = shown.parts()['all']
    want = TauCurve(rows.loss, rows.scale()).tau_range()
    for factor in (0.1, 3, 10):
        both = factor * rows.preds_S, factor * rows.preds_T
        scaled = Rows(*both, rows.labels, shown.loss)
        found = TauCurve(scaled.loss, scaled.scale()).tau_range()
        assert found == pytest.approx([factor * value for value in want], rel=1e-3)


@pytest.mark.parametrize(
    ('loss_kd', 'key'),
    [
        (dict(type='ctkd_mm.DKDLoss', temperature=GLOBAL), 'temperature'),
        (
            dict(
                type='ctkd_mm.ZScoreLoss',
                loss=dict(type='ctkd_mm.CTKDLoss', temperature=GLOBAL),
            ),
            'loss.temperature',
        ),
    ],
)
def test_the_options_have_the_key_of_the_losss_temperature(loss_kd, key):
    (path,) = find_temperatures(MODELS.build(copy.deepcopy(loss_kd)))
    cfg = Config(dict(model=dict(loss_kd=loss_kd)))
    name = f'distiller.distill_losses.loss_kd.{path}'
    assert config_key(name, cfg) == f'model.loss_kd.{key}'
    other = f'distiller.distill_losses.loss_rpn.{key}'
    assert config_key(other, cfg) == f'model.{other}'


def test_a_temperature_of_mmrazors_distiller_keeps_its_path():
    losses = dict(loss_kd=dict(temperature=GLOBAL))
    cfg = Config(dict(model=dict(distiller=dict(distill_losses=losses))))
    name = 'distiller.distill_losses.loss_kd.temperature'
    assert config_key(name, cfg) == f'model.{name}'


@pytest.mark.process
def test_the_tool_prints_options_and_writes_the_picture(
    root, digits_options, teacher_ckpt, tmp_path
):
    line = [sys.executable, 'tools/suggest_temperature.py', CTKD, '--images', '8']
    line += ['--out', str(tmp_path / 'c.png'), '--cfg-options', *digits_options]
    line += [f'model.teacher_ckpt={teacher_ckpt}']
    good = subprocess.run(line, cwd=root, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert '--cfg-options model.loss_kd.temperature.tau_init=' in good.stdout
    assert (tmp_path / 'c.png').is_file()
