"""Each benchmark at a tiny size, and the functions that its figures come from."""

from __future__ import annotations

import copy
import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.mark.start
def test_loss_shows_every_side_at_every_size(bench, capsys):
    sizes = dict(
        rows=([(4, 5), (8, 5)], [(16, 5), (32, 5)]),
        columns=([(4, 5), (4, 9)], [(4, 12), (4, 24)]),
    )
    module, figures = bench('loss', '--short', SIZES=sizes, LOOP_ROWS=4)
    times, growths, goals = figures['tables'].values()
    shown = {row['rows x columns']: row for row in times}
    assert list(shown) == '4 x 5,8 x 5,16 x 5,32 x 5,4 x 9,4 x 12,4 x 24'.split(',')
    assert shown['8 x 5']['loop, ms'] == shown['16 x 5']['loop / instance'] == '-'
    for row in times:
        assert '-' not in [row[f'{side}, ms'] for side in module.SIDES[1:]]
    assert [row['exponents'] for row in growths] == ['mmrazor', 'global', 'instance']
    assert len(goals) == 8
    # loop: 4 x 5 and 4 x 9; the others: all seven sizes
    assert len(figures['seconds']) == 2 + 3 * 7
    assert 'Growth' in capsys.readouterr().out


def test_growth_is_the_exponent(bench):
    from loss import growth

    sizes = [(512, 10), (512, 20), (512, 80)]
    seconds = [3e-9 * (n * c) ** 1.5 for n, c in sizes]
    assert growth(sizes, seconds) == pytest.approx(1.5)


def test_the_row_by_row_loss_has_the_value_and_gradient_of_ours(bench):
    from loss import Loop

    from ctkd_mm import CTKDLoss, InstanceTemperature

    torch.manual_seed(0)
    temperature = InstanceTemperature(6).double()
    preds_S, preds_T = torch.randn(2, 5, 7, dtype=torch.float64)
    preds_S.requires_grad_()
    inputs = (preds_S, *temperature.parameters())
    values = [kind(temperature)(preds_S, preds_T) for kind in (Loop, CTKDLoss)]
    torch.testing.assert_close(values[0].squeeze(), values[1])
    grads = [torch.autograd.grad(value, inputs) for value in values]
    torch.testing.assert_close(*grads)


@pytest.mark.start
def test_evaluate_finds_no_difference(bench):
    pytest.importorskip('hotcoco')
    module, figures = bench('evaluate', '--short', SHORT=6)
    (rows,) = figures['tables'].values()
    assert [row['part'] for row in rows] == list(module.PARTS)
    assert [row['equal'] for row in rows] == ['yes', 'yes']
    assert [len(row) for row in figures['seconds']] == [2 + 3] * 6
    assert 0 < figures['mAP'] < 1
    assert figures['environment']['packages']['torch']


def test_the_scenes_have_the_numbers_of_cocos_val_set(bench, tmp_path):
    from evaluate import write

    results = write(400, tmp_path / 'truth.json')
    content = json.loads((tmp_path / 'truth.json').read_text())
    objects = len(content['annotations']) / 400
    assert objects == pytest.approx(36781 / 5000, abs=0.5)  # 3.7 standard errors
    counts = [len(predictions['scores']) for _, predictions in results]
    assert sum(counts) / 400 > 20
    assert max(counts) <= 100
    assert len(content['categories']) == 80


@pytest.mark.start
def test_checkpoint_weighs_the_teacher(bench):
    demo = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
    _, figures = bench('checkpoint', '--short', CONFIGS=[demo])
    (rows,) = figures['tables'].values()
    ours, stock = rows
    assert [ours['side'], stock['side']] == ['ours', 'mmrazor']
    (measured,) = figures['figures'].values()
    more = measured['bytes']['mmrazor'] - measured['bytes']['ours']
    assert more == pytest.approx(measured['teacher_bytes'], rel=0.05)
    assert float(stock['MB']) == pytest.approx(measured['bytes']['mmrazor'] / 1e6, 0.01)
    assert sorted(map(len, measured['seconds'].values())) == [3] * 4


@pytest.fixture
def step(bench, monkeypatch):
    """The benchmark of a step, for the digits pair."""
    import pairs
    import step

    monkeypatch.setattr(pairs, 'NUM_CLASSES', 10)
    monkeypatch.setattr(pairs, 'PROPOSALS', 100)
    return step


CASE = SimpleNamespace(pair='digits', size=(96, 128), batch=2, device='cpu', dtype=None)


def test_all_sides_of_a_step_distil_the_same(step):
    from pairs import batch

    shared, losses = step.Shared(CASE), {}
    for side in step.SIDES:
        model = step.make(side, shared)
        data = model.data_preprocessor(batch(*CASE.size, CASE.batch), True)
        torch.manual_seed(0)
        np.random.seed(0)
        losses[side] = model(**data, mode='loss')
    distilled = {
        side: found.pop('distill.loss_kd').item()
        for side, found in losses.items()
        if side != 'student'
    }
    want = distilled['kd']
    assert distilled['mdistiller'] == pytest.approx(want, rel=1e-4)
    assert distilled['mmrazor'] == pytest.approx(want, rel=1e-4)
    assert distilled['ctkd'] == pytest.approx(distilled['ctkd bf16'], rel=0.1)
    for side in ('mdistiller', 'mmrazor', *step.OURS):
        for name, value in losses['student'].items():
            for a, b in zip(as_list(losses[side][f'student.{name}']), as_list(value)):
                assert a.item() == pytest.approx(b.item(), rel=1e-4, abs=1e-6)


def as_list(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.start
def test_step_times_every_side_and_changes_no_weight(step, bench, monkeypatch, capsys):
    made, make = [], step.make

    def keep(side, shared):
        model = make(side, shared)
        made.append((model, copy.deepcopy(model.state_dict())))
        return model

    def memory(args):
        # In this process: one of its own would train the full pair.
        for side in step.MEMORY:
            step.peak_memory(side, args)
        lines = capsys.readouterr().out.splitlines()
        found = [json.loads(line) for line in lines if line.startswith('{')]
        return dict(zip(step.MEMORY, found))

    monkeypatch.setattr(step, 'make', keep)
    monkeypatch.setattr(step, 'MEMORY', ('student', 'ctkd'))
    _, figures = bench(
        'step',
        *('--pair', 'digits', '--size', '96x128', '--batch', '1', '--rounds', '1'),
        memory=memory,
    )
    sides, goals = figures['tables'].values()
    assert {row['side'] for row in sides} == {*step.SIDES, *LIMIT, 'limit'}
    assert len(goals) == 8
    for model, before in made:
        after = dict(model.named_parameters())
        assert after and all(torch.equal(before[key], after[key]) for key in after)


LIMIT = ('student', 'features', 'roi head')


def test_the_tables_of_a_step_have_all_sides_and_goals(step):
    seconds = {side: [2.0, 3.0] for side in (*step.SIDES, *LIMIT[1:])}
    mib = {side: dict(peak=100.0, teacher=30.0, level=5.0) for side in step.MEMORY}
    sides, goals = step.tables(seconds, mib, 2).values()
    shown = {row['side']: row for row in sides}
    assert set(shown) == {*seconds, 'limit'}
    assert shown['limit']['seconds'] == '7.500'  # three parts of 2.5
    assert shown['ctkd']['over limit'] == f'{1 / 3:.3f}'
    assert shown['ctkd']['images/s'] == '0.80'
    assert [row[''] for row in goals] == 3 * ['met'] + 4 * ['missed'] + ['met']
    assert goals[-1]['measured'] == f'{100 / 135:.3f}'


@pytest.mark.start
def test_the_ways_of_a_teacher_are_compared_with_the_plain_one(bench, step):
    _, figures = bench('teacher', '--short', '--size', '96x96', '--pair', 'digits')
    features, _, layers, logits = figures['tables'].values()
    errors = {row['way']: float(row['error']) for row in features}
    assert errors['plain'] == 0
    assert errors['ours'] < 1e-5 < errors['ours, bfloat16']
    assert errors['ours, bfloat16'] == errors['ours, cast to bfloat16']
    cast, kept = (row['error'] for row in layers[1:])
    assert float(cast) < 0.1
    assert kept == cast
    exact, lossy = (float(row['error']) for row in logits)
    assert exact < 1e-5 < lossy < 0.1


@pytest.fixture
def gpu(root, monkeypatch):
    """The modules of the benchmark of a GPU can be imported."""
    monkeypatch.syspath_prepend(str(root / 'benchmarks' / 'gpu'))


def test_idle_gaps_are_the_times_between_kernels_on_any_stream(gpu, tmp_path):
    from idle_gaps import gaps_of

    def event(cat, name, ts, dur):  # microseconds
        return dict(ph='X', cat=cat, name=name, ts=ts, dur=dur)

    events = [
        event('kernel', 'conv', 1000, 400),
        event('kernel', 'relu', 1200, 300),  # of another stream, until 1500
        event('gpu_memcpy', 'copy', 1510, 90),  # after 0.01 ms
        event('kernel', 'nms', 3600, 400),  # after 2 ms
        event('cpu_op', 'aten::nonzero', 1500, 1600),
        event('cpu_op', 'aten::item', 1700, 1400),
        event('cpu_op', 'aten::add', 100, 100),
        dict(ph='M', name='process_name'),
    ]
    path = tmp_path / 'trace.json'
    path.write_text(json.dumps(dict(traceEvents=events)))
    (device,), lengths, longest = gaps_of(path).values()
    assert device['span, ms'] == '3.00' and device['busy, ms'] == '0.99'
    assert device['idle'] == '67.0%'
    assert [row['number'] for row in lengths] == ['1', '0', '0', '1']
    assert [row['ms'] for row in longest] == ['2.000', '0.010']
    assert longest[0]['at, ms'] == '0.60'
    assert longest[0]['the host meanwhile'] == 'aten::nonzero, 75% of it'


def test_a_device_without_work_has_no_gaps(gpu, tmp_path):
    from idle_gaps import gaps_of

    path = tmp_path / 'trace.json'
    path.write_text('{"traceEvents": []}')
    ((row,),) = gaps_of(path).values()
    assert row['found'] == 'no work of a device'


@pytest.mark.process
def test_a_part_that_ends_late_or_fails_stops_no_other(gpu, tmp_path, monkeypatch):
    import run

    parts = dict(run.PARTS, trace=(*run.PARTS['trace'][:2], 0.2))
    monkeypatch.setattr(run, 'PARTS', parts)
    monkeypatch.setattr(run, 'LEAST', 0.1)
    args = SimpleNamespace(device='cpu', short=True, out=tmp_path, minutes=1)
    (tmp_path / 'teacher.pth').write_text('no checkpoint')
    rows = list(run.run_all(['trace', 'precisions'], args))
    assert [row['result'] for row in rows] == ['out of time', 'failed']
    assert 'train.json' in rows[1]['why']  # the digits come with the teacher
    args.minutes = 0
    (row,) = run.run_all(['trace'], args)
    assert row['result'] == 'no time left'


@pytest.mark.start
def test_the_demo_trains_in_a_group_of_one_process(gpu, bench, tmp_path, monkeypatch):
    import demo_parts

    monkeypatch.setenv('LOCAL_RANK', '0')
    args = SimpleNamespace(device='cpu', short=True, out=tmp_path)
    (row,) = demo_parts.nccl(args)['tables']['Goals']
    assert row == demo_parts.goal('DDP: losses off one without a group', 0, 0.05)


@pytest.mark.process
def test_a_start_is_split_into_what_is_ours_and_what_is_not(
    root, monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    monkeypatch.chdir(root)
    soak, startup = map(importlib.import_module, ('soak', 'startup'))
    data, ckpt = soak.prepare(tmp_path / 'set', num_train=16, num_val=4)
    monkeypatch.setattr(startup, 'IMAGES', 20)
    monkeypatch.setattr(startup, 'OBJECTS', 100)
    large = startup.make_large(tmp_path / 'large', data)
    found = startup.start('pair', large, ckpt)
    ours = {part for part in found['parts'] if part.startswith(startup.OURS)}
    hooks = {'ctkd_mm.PreflightHook', 'ctkd_mm.CurriculumHook'}
    assert ours >= {'ctkd_mm.id_faults', 'ctkd_mm.speed_up', *hooks}
    plain = startup.start('plain', data, ckpt)['parts']
    assert not any(part.startswith(startup.OURS) for part in plain)
    assert sum(plain.values()) > 1 and found['peak'] > 100


def test_a_step_is_counted_with_its_backward_pass(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    counter = importlib.import_module('count')
    x, y = torch.rand(4, 5, requires_grad=True), torch.rand(5, 3)

    def step():
        (x @ y).sum().item()

    found = counter.count(step)
    assert found == dict(operators=3, flops=2 * 4 * 5 * 3, bytes=4 * 12 + 4, reads=1)
    found = counter.count(lambda: (x @ y).sum().backward())
    assert found['flops'] == 2 * 4 * 5 * 3 * 2  # the gradient of x alone
    assert counter.count(lambda: y[y > 0.5])['reads'] == 1


@pytest.mark.start
def test_a_learned_temperature_takes_few_operators(bench, monkeypatch):
    monkeypatch.setattr(importlib.import_module('pairs'), 'NUM_CLASSES', 10)
    _, figures = bench('count', '--short', '--pair', 'digits')
    counts = {k: v['operators'] for k, v in figures['counts'].items()}
    assert 0 < counts['ctkd'] - counts['kd'] <= 47
    assert counts['kd'] < counts['mmrazor']
    assert figures['counts']['ctkd']['reads'] == figures['counts']['kd']['reads']
