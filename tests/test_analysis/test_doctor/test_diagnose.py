from __future__ import annotations

import inspect
import math
import random
import re

import pytest
from helpers.run_logs import train_line, write_log

from ctkd_mm.analysis.doctor import rules
from ctkd_mm.analysis.doctor.diagnose import DEFAULTS, diagnose, diagnose_run
from ctkd_mm.analysis.doctor.rules import Track
from ctkd_mm.cli import diagnose as diagnose_tool
from ctkd_mm.models.temperatures.learned import LearnedTemperature
from ctkd_mm.models.temperatures.ramps import cosine_curriculum

EPOCHS, PER_EPOCH = 12, 20  # logged lines an epoch, 50 iterations apart


def run(tau_of, epochs=EPOCHS, ramp=5, **others):
    """Lines of a run whose tau is a function of the time in epochs."""
    lines = []
    for i in range(1, epochs * PER_EPOCH + 1):
        epoch = (i - 1) // PER_EPOCH + 1
        others_now = {key: value(i / PER_EPOCH) for key, value in others.items()}
        lines.append(
            {
                **train_line(50 * i, epoch=epoch, tau=tau_of(i / PER_EPOCH)),
                'lambda': cosine_curriculum(epoch - 1, end=ramp),
                **others_now,
            }
        )
    return lines


def verdicts(lines, tau_init=1, tau_range=20, **kwargs):
    return [f.verdict for f in diagnose(lines, tau_init, tau_range, **kwargs)]


def falling(time):
    """From 22 to the floor, 2, within 4 epochs."""
    return 2 + 20 * max(1 - time / 4, 0.001)


def walk(seed, step):
    draw = random.Random(seed)
    tau = 11.0
    taus = []
    for _ in range(EPOCHS * PER_EPOCH):
        tau = min(max(tau + draw.gauss(0, step), 2), 20)
        taus.append(tau)
    return lambda time: taus[round(time * PER_EPOCH) - 1]


def test_a_tau_that_falls_to_its_floor_and_stays_is_at_the_floor():
    (finding,) = diagnose(run(falling), tau_init=2, tau_range=20)
    assert finding.verdict == 'floor'
    assert 'at its floor, 2, since epoch 4' in finding.seen
    assert 'lower temperature.tau_init' in finding.advice


def test_a_tau_that_climbs_to_its_ceiling_and_stays_is_at_the_ceiling():
    (finding,) = diagnose(run(lambda t: 24 - falling(t)), tau_init=2, tau_range=20)
    assert finding.verdict == 'ceiling'
    assert 'at its ceiling, 22, since epoch 4' in finding.seen
    assert 'Raise temperature.tau_range' in finding.advice


def stopped(lines, epoch):
    """The same run, its distillation stopped before an epoch; tau stays from there."""
    tau = [line['tau'] for line in lines if line['epoch'] < epoch][-1]
    return [
        {**line, 'tau': tau, 'distill.loss_kd': 0.0}
        if line['epoch'] >= epoch
        else {**line, 'distill.loss_kd': 1.0}
        for line in lines
    ]


def test_a_tau_is_not_judged_after_the_distillation_has_stopped():
    # In 1.5 full epochs it moved by less than a hundredth: too early to call it frozen.
    slow = run(lambda t: 9 + 0.03 * t)
    assert verdicts(slow[: 3 * PER_EPOCH], ended=False) == ['healthy']
    assert verdicts(slow) == ['healthy']
    lines = stopped(slow, epoch=4)
    (finding,) = diagnose(lines, 1, 20)
    assert finding.verdict == 'healthy'
    assert 'until epoch 3' in finding.seen
    # It reached the floor when it was stopped.
    falls = stopped(run(lambda t: max(9 - 2 * t, 1.1)), epoch=5)
    assert verdicts(falls) == ['healthy']


def test_a_weight_that_was_too_high_before_the_stop_still_is():
    lines = run(lambda t: 9 + 0.3 * t, **{'student.loss_cls': lambda t: 0.3})
    assert verdicts(stopped(lines, epoch=7)) == ['overweight']


def test_a_loss_that_is_0_throughout_does_not_hide_a_frozen_tau():
    lines = run(lambda t: 9.0, **{'distill.loss_kd': lambda t: 0.0})
    assert verdicts(lines) == ['frozen']


def test_a_floor_that_was_left_again_is_none():
    assert verdicts(run(lambda t: 1.2 if t < 9 else 1.2 + t - 9)) == ['healthy']


def test_the_floor_ends_at_a_fiftieth_of_the_range():
    assert verdicts(run(lambda t: 1 + 20 * 0.019 * (1 + 0.01 * t / 12))) == ['floor']
    assert verdicts(run(lambda t: 1 + 20 * (0.021 + 0.02 * t / 12))) == ['healthy']


def test_the_floor_takes_a_full_epoch():
    lines = run(lambda t: 9 - t if t <= 7 else 1.1)
    assert verdicts(lines[: 8 * PER_EPOCH]) == ['healthy']
    assert verdicts(lines[: 8 * PER_EPOCH + 1]) == ['floor']


def test_a_flat_tau_is_frozen():
    (finding,) = diagnose(run(lambda t: 15.62), tau_init=1, tau_range=20)
    assert finding.verdict == 'frozen'
    assert 'from 15.62 to 15.62' in finding.seen
    assert 'optim_wrapper.paramwise_cfg.custom_keys' in finding.advice


def test_frozen_is_less_than_a_hundredth_of_the_range():
    assert verdicts(run(lambda t: 15.62 - 0.19 * t / EPOCHS)) == ['frozen']
    assert verdicts(run(lambda t: 15.62 - 0.21 * t / EPOCHS)) == ['healthy']


def test_frozen_waits_for_two_epochs_of_lambda():
    lines = run(lambda t: 15.62)
    # 0.0955 + 0.3455 + 0.6545 + 0.9045 less the first line's, then 1 an epoch.
    assert Track(lines[: 4 * PER_EPOCH], 1, 20).full_epochs() == pytest.approx(
        2 - 0.0954915 / PER_EPOCH
    )
    (early,) = diagnose(lines[: 4 * PER_EPOCH], tau_init=1, tau_range=20)
    assert early.verdict == 'healthy'
    assert 'too early to tell whether it is frozen' in early.seen
    assert verdicts(lines[: 4 * PER_EPOCH + 1]) == ['frozen']


def test_frozen_waits_for_200_iterations_of_a_small_set():
    lines = run(lambda t: 15.62)
    for steps, verdict in ((10, 'healthy'), (20, 'frozen')):
        few = [{**line, 'step': steps * line['step'] // 1000} for line in lines]
        (finding,) = diagnose(few, tau_init=1, tau_range=20)
        assert finding.verdict == verdict
        assert ('too early to tell' in finding.seen) == (verdict == 'healthy')


def test_a_tau_that_wanders_between_3_and_4_is_healthy():
    (finding,) = diagnose(run(lambda t: 3.5 + 0.5 * math.sin(t)), 1, 20)
    assert finding.verdict == 'healthy'
    assert finding.advice == ''
    assert 'between 3 and 4 of its range 1 to 21' in finding.seen


def test_a_fast_sine_of_small_amplitude_is_healthy():
    assert verdicts(run(lambda t: 3.5 + 0.5 * math.sin(9 * t))) == ['healthy']


@pytest.mark.parametrize('step', [0.05, 0.2, 1])
def test_random_walks_are_healthy(step):
    found = [verdicts(run(walk(seed, step))) for seed in range(20)]
    assert found == [['healthy']] * 20


@pytest.mark.parametrize(
    ('end', 'last', 'verdict'),
    [
        (3 + 2.1, 1.01, 'climbing'),
        (3 + 2.1, 0.99, 'healthy'),  # the student has lowered the loss
        (3 + 1.9, 1.01, 'healthy'),  # less than a tenth of the range
    ],
)
def test_climbing_raises_the_loss_over_a_tenth_of_the_range(end, last, verdict):
    lines = run(
        lambda t: 3 + (end - 3) * t / EPOCHS,
        **{'distill.loss_kd': lambda t: last if t > 8 else 1.0},
    )
    assert verdicts(lines) == [verdict]
    assert verdicts(lines[: 3 * PER_EPOCH - 1], ended=False) == ['healthy']


def test_climbing_names_the_loss_of_both_thirds():
    loss = {'distill.loss_kd': lambda t: 0.25 + 0.5 * (t > 8)}
    (finding,) = diagnose(run(lambda t: 3 + t, **loss), tau_init=1, tau_range=20)
    assert 'from 0.25 in the first third to 0.75 in the last' in finding.seen
    assert 'tau went from 3.05 to 15' in finding.seen
    assert 'loss_weight' in finding.advice


def test_slow_wide_waves_are_healthy():
    lines = run(lambda t: 10 + 5 * math.sin(2 * math.pi * t / 6))
    assert verdicts(lines) == ['healthy']


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_tau_that_is_no_number_is_non_finite_since_its_epoch(value):
    lines = run(lambda t: 3 + t if t <= 7.5 else value)
    (finding,) = diagnose(lines, tau_init=1, tau_range=20)
    assert finding.verdict == 'non-finite'
    assert f'tau is {value} in epoch 8, iteration {50 * (150 + 1)}' in finding.seen
    assert 'bfloat16' in finding.advice


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_a_lambda_that_never_changes_has_no_ramp(value):
    lines = [{**line, 'lambda': value} for line in run(lambda t: 3 + t)]
    (finding,) = diagnose(lines, 1, 20)
    assert finding.verdict == 'no ramp'
    assert finding.seen == f'lambda went from {value:g} to {value:g} until epoch 12'
    assert 'Its end is a part of the training' in finding.advice
    assert verdicts(lines[: 3 * PER_EPOCH - 1]) == ['healthy']
    assert verdicts(lines[: 3 * PER_EPOCH]) == ['no ramp']


@pytest.mark.parametrize(('last', 'verdict'), [(0.49, 'no ramp'), (0.51, 'healthy')])
def test_a_lambda_that_still_grows_at_the_end_is_half_grown_at_least(last, verdict):
    lines = run(lambda t: 3 + t)
    for line in lines:
        line['lambda'] = last * line['step'] / lines[-1]['step']
    assert verdicts(lines) == [verdict]


def test_a_ramp_far_longer_than_the_training_is_none():
    lines = run(lambda t: 3 + 0.1 * t, ramp=90000)
    assert verdicts(lines) == ['no ramp']
    assert verdicts(lines, ended=False) == ['healthy']


def test_a_ramp_that_is_still_to_begin_is_waited_for():
    lines = [{**line, 'lambda': 0.0} for line in run(lambda t: 3.0)]
    assert verdicts(lines, ended=False) == ['healthy']
    assert verdicts(lines) == ['no ramp']


def test_a_ramp_to_a_low_lambda_is_one():
    lines = [{**li, 'lambda': 0.3 * li['lambda']} for li in run(lambda t: 3 + t)]
    assert verdicts(lines) == ['healthy']


def test_a_log_that_lacks_its_beginning_is_not_judged_by_its_ramp():
    assert verdicts(run(lambda t: 3 + t)[6 * PER_EPOCH :]) == ['healthy']


def test_a_log_without_lambda_has_no_ramp():
    lines = run(lambda t: 3 + t)
    for line in lines:
        del line['lambda']
    (finding,) = diagnose(lines, 1, 20)
    assert finding.verdict == 'no ramp'
    assert 'lambda, which is not logged' in finding.seen
    assert "dict(type='ctkd_mm.CurriculumHook', end=5)" in finding.advice


def test_without_epochs_5000_iterations_count_as_one():
    lines = [
        {**train_line(i, tau=15.62), 'lambda': min(i / 5000, 1)}
        for i in range(100, 12501, 100)
    ]
    # Lambda: half an epoch while it grows, then one and a half.
    got = Track(lines, 1, 20).full_epochs()
    assert got == pytest.approx(2, abs=0.02)
    assert verdicts(lines) == ['frozen']
    assert 'until iteration 12500' in diagnose(lines, 1, 20)[0].seen


def test_several_findings_come_together():
    lines = run(falling)
    for line in lines:
        line['lambda'] = 1.0
    assert verdicts(lines, tau_init=2) == ['floor', 'no ramp']


def test_nothing_logged_is_refused():
    with pytest.raises(ValueError, match='no logged line has a tau'):
        diagnose([train_line(1)], 1, 20)


@pytest.mark.parametrize('verdict', rules.ADVICE)
def test_advice_is_in_sentences_of_30_words_at_most(verdict):
    sentences = re.split(r'[.:] ', rules.ADVICE[verdict])
    assert max(len(sentence.split()) for sentence in sentences) <= 30


def numbers(text):
    return [n for n in map(float, re.findall(r'-?[\d.]*\d', text)) if n]


def test_the_documented_thresholds_are_the_rules(root):
    want = {
        'frozen': [
            rules.FROZEN_SHARE,
            rules.FROZEN_FULL_EPOCHS,
            rules.FROZEN_ITERATIONS,
        ],
        'floor': [rules.SATURATED_SHARE],
        'ceiling': [1 - rules.SATURATED_SHARE],
        'overweight': [rules.OVERWEIGHT_RATIO, rules.RAMP_EPOCHS],
        'climbing': [rules.CLIMB_SHARE],
        'no ramp': [rules.RAMP_EPOCHS, rules.RAMPED_LAMBDA],
    }
    page = (root / 'docs' / 'doctor.md').read_text()
    rows = [line.split(' | ') for line in page.splitlines() if line.startswith('| ')]
    when = {verdict[2:]: numbers(when) for verdict, when, *_ in rows}
    assert {verdict: when[verdict] for verdict in want} == want
    bullets = diagnose.__doc__.split('Args:')[0].split('- ``')[1:]
    said = {
        verdict: numbers(rule) for verdict, rule in (b.split('``', 1) for b in bullets)
    }
    # One bullet for both ends, with their time.
    want['floor'] += [*want.pop('ceiling'), rules.SATURATED_FULL_EPOCHS]
    assert said == {'non-finite': [], **want}


GLOBAL = "dict(type='ctkd_mm.GlobalTemperature', tau_init=2)"


def write_run(work_dir, lines, model, max_epochs=EPOCHS):
    log = write_log(work_dir, '1', lines)
    config = f'model = {model}\ntrain_cfg = dict(max_epochs={max_epochs})\n'
    log.with_name('config.py').write_text(config)
    return log


def test_a_run_is_judged_by_the_range_in_its_config(tmp_path):
    model = f'dict(a=[dict(loss=dict(loss=dict(temperature={GLOBAL})))])'
    log = write_run(tmp_path, run(falling), model)
    for path in (tmp_path, log):
        (finding,) = diagnose_run(path)['']
        assert finding.verdict == 'floor'
    assert 'range 2 to 22' in finding.seen


def test_a_run_that_goes_on_is_not_judged_by_the_end_of_its_ramp(tmp_path):
    model, lines = f'dict(temperature={GLOBAL})', run(lambda t: 3 + t, ramp=90)
    write_run(tmp_path / 'on', lines, model, max_epochs=120)
    write_run(tmp_path / 'over', lines, model)
    found = [diagnose_run(tmp_path / name)[''][0].verdict for name in ('on', 'over')]
    assert found == ['healthy', 'no ramp']


def test_iterations_that_all_say_epoch_1_count_as_epochs_of_5000(tmp_path):
    # As MMDetection's LogProcessor(by_epoch=True) writes them.
    lines = [
        {**train_line(50 * i, epoch=1, tau=15.62), 'lambda': 1.0}
        for i in range(1, 1801)
    ]
    log = write_run(tmp_path, lines, f'dict(temperature={GLOBAL})')
    with log.with_name('config.py').open('a') as file:
        file.write("train_cfg = dict(type='IterBasedTrainLoop', max_iters=90000)\n")
    found = diagnose_run(tmp_path)
    assert [f.verdict for f in found['']] == ['frozen', 'no ramp']


def test_several_temperatures_are_judged_by_their_suffix(tmp_path):
    model = (
        "dict(a=dict(temperature=dict(type='ctkd_mm.ConstantTemperature', tau=3)), "
        f'b=dict(temperature={GLOBAL}), c=dict(temperature=dict(type="my.Own", '
        'tau_init=1, tau_range=9)))'
    )
    lines = [
        {**{k: v for k, v in line.items() if k != 'tau'}, 'tau.0': 3, 'tau.1': tau}
        for line in run(falling)
        for tau in [line['tau']]
    ]
    for i, line in enumerate(lines):
        line['tau.2'] = 4 + i / 100
    write_run(tmp_path, lines, model)
    found = {k: [f.verdict for f in v] for k, v in diagnose_run(tmp_path).items()}
    assert found == {'.1': ['floor'], '.2': ['healthy']}


def test_of_a_temperature_for_each_sample_the_mean_is_judged(tmp_path):
    model = "dict(temperature=dict(type='ctkd_mm.InstanceTemperature', num_classes=9))"
    lines = run(lambda t: 15.62, tau_min=lambda t: 3 + t, tau_max=lambda t: 20.0)
    write_run(tmp_path, lines, model)
    (finding,) = diagnose_run(tmp_path)['']
    assert finding.verdict == 'frozen'
    assert finding.seen.startswith('mean tau went from 15.62')


def test_the_defaults_are_those_of_a_learned_temperature():
    parameters = inspect.signature(LearnedTemperature).parameters
    assert {k: parameters[k].default for k in DEFAULTS} == DEFAULTS


def test_a_temperature_that_learns_nothing_is_refused(tmp_path):
    model = "dict(temperature=dict(type='ctkd_mm.ConstantTemperature', tau=3))"
    write_run(tmp_path, run(lambda t: 3), model)
    with pytest.raises(ValueError, match='has no learned tau'):
        diagnose_run(tmp_path)


def test_a_log_of_validations_alone_is_refused(tmp_path):
    write_run(
        tmp_path, [{'coco/bbox_mAP': 0.5, 'step': 1}], f'dict(temperature={GLOBAL})'
    )
    with pytest.raises(ValueError, match='has no learned tau'):
        diagnose_run(tmp_path)


def test_the_tool_prints_verdicts_and_its_status_tells_the_worst(tmp_path, capsys):
    model = f'dict(temperature={GLOBAL})'
    good = write_run(tmp_path / 'good', run(lambda t: 3 + t), model)
    bad = write_run(tmp_path / 'bad', run(falling), model)
    (tmp_path / 'empty').mkdir()
    none = write_run(tmp_path / 'none', [train_line(1)], 'dict()')
    for runs, status in (
        ([good], 0),
        ([bad, good], 1),
        ([none, bad], 2),
        ([tmp_path / 'empty', good], 2),
    ):
        with pytest.raises(SystemExit) as stop:
            diagnose_tool([str(path) for path in runs])
        assert stop.value.code == status
    out, err = capsys.readouterr()
    assert f'{bad}, tau: floor\n  tau is at its floor, 2, since epoch 4' in out
    assert f'{good}, tau: healthy\n  tau went from' in out
    assert f'{none} cannot be judged. the log of {none} has no learned tau' in err
    assert f'{tmp_path / "empty"} has no JSON log' in err


def with_losses(kd, own):
    """A tau that falls within its range; both losses by the time in epochs."""
    return run(
        lambda time: 15 - time,
        **{'distill.loss_kd': kd, 'student.loss_cls': own},
    )


def test_a_distillation_loss_twice_the_students_own_at_the_end_is_overweight():
    lines = with_losses(lambda time: 1.2 if time > 8 else 0.1, lambda time: 0.5)
    (finding,) = diagnose(lines, 1, 20)
    assert finding.verdict == 'overweight'
    assert 'distill.loss_kd of the last third is 1.2, 2.4 times' in finding.seen
    assert 'student.loss_cls, 0.5' in finding.seen
    assert 'loss_weight' in finding.advice


@pytest.mark.parametrize(
    ('kd', 'own'),
    [
        (lambda time: 0.95, lambda time: 0.5),
        (lambda time: 5.0 if time < 7 else 0.1, lambda time: 0.5),  # as a start is
        (lambda time: 0.0, lambda time: 0.0),
    ],
    ids=['below', 'at the start alone', 'nothing'],
)
def test_a_distillation_loss_that_ends_small_is_healthy(kd, own):
    assert verdicts(with_losses(kd, own)) == ['healthy']


def test_a_young_training_is_not_called_overweight():
    lines = with_losses(lambda time: 5.0, lambda time: 0.5)
    young = lines[: 2 * PER_EPOCH]
    assert 'overweight' not in verdicts(young, ended=False)
    assert 'overweight' in verdicts(lines, ended=False)
