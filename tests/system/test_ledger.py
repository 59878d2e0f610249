"""The ledger's runs and logs, and the page that is made of them alone."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from ctkd_mm.analysis import run_log


@pytest.fixture
def experiments(root, monkeypatch):
    """Import a module of experiments/, with the checkout as the current folder."""
    monkeypatch.syspath_prepend(str(root / 'experiments'))
    monkeypatch.chdir(root)
    return importlib.import_module


@pytest.fixture
def copied_logs(experiments, monkeypatch, tmp_path) -> Path:
    """A copy of the committed logs, which the ledger reads instead."""
    record = experiments('record')
    logs = Path(shutil.copytree(record.LOGS, tmp_path / 'logs'))
    monkeypatch.setattr(record, 'LOGS', logs)
    return logs


@pytest.fixture
def sets(experiments) -> dict:
    return experiments('record').load_sets()


@pytest.fixture
def digits(sets):
    return sets['digits']


def test_an_interval_is_students(experiments):
    values = [1, 2, 3, 4, 5]
    mean, half, p_value = experiments('intervals').interval(values)
    assert mean == 3
    # t(0.975; 4) = 2.776, s = sqrt(2.5)
    assert half == pytest.approx(2.776 * 2.5**0.5 / 5**0.5, rel=1e-3)
    assert p_value == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)


def test_a_difference_is_paired(experiments):
    gain = experiments('intervals').paired([0.2, 0.3, 0.4], [0.1, 0.2, 0.31])
    assert gain.mean == pytest.approx(0.29 / 3)
    assert gain.half == pytest.approx(4.303 * (0.01 / 3**0.5) / 3**0.5, rel=1e-3)


def test_holm_multiplies_the_smallest_by_their_number(experiments):
    # Worked by hand: 0.01 · 4, then 0.015 · 3 = 0.045, 0.04 · 2 and 0.03 · 2 in order.
    adjusted = experiments('intervals').holm([0.04, 0.01, 0.6, 0.015])
    assert adjusted == pytest.approx([0.08, 0.04, 0.6, 0.045])


def test_a_verdict_needs_an_adjusted_p_value_below_5_percent(experiments):
    intervals = experiments('intervals')
    gain = intervals.paired([0.2, 0.3, 0.4], [0.1, 0.2, 0.31])
    assert intervals.verdict(gain, 0.049) == 'better'
    assert intervals.verdict(gain._replace(mean=-0.1), 0.049) == 'worse'
    assert intervals.verdict(gain, 0.05) == 'no difference shown'


@pytest.mark.parametrize('n', [3, 5, 10])
def test_a_detectable_difference_is_found_in_four_of_five_draws(experiments, n):
    intervals = experiments('intervals')
    rng = np.random.default_rng(0)
    half = scipy.stats.t.ppf(0.975, n - 1) / n**0.5  # s = 1
    gain = intervals.Interval(0, half, 1)
    draws = rng.normal(intervals.detectable(gain, n), 1, (40_000, n))
    found = np.mean(scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.008)


def test_a_run_is_done_when_its_last_epoch_is_validated(experiments, monkeypatch):
    ledger = experiments('ledger')
    for steps, done in (([25, 30], True), ([25], False), ([], False)):
        metrics = [dict(step=step) for step in steps]
        monkeypatch.setattr(run_log, 'read_metrics', lambda _, found=metrics: found)
        assert ledger.is_validated('run', 30) == done


def test_every_method_has_the_same_seeds_and_every_change_some_of_them(sets):
    for data in sets.values():
        seeds = list(data.runs['student']['seeds'])
        for name, run in data.runs.items():
            count = len(run['seeds'])
            assert list(run['seeds']) == seeds[:count], name
            assert count >= (3 if data.changes(name) else len(seeds)), name


def test_a_run_is_the_sets_config_with_its_method_seed_and_changes(digits):
    cfg = digits.make_config('ctkd', seed=3)
    shipped = digits.make_config('ablation-shipped', seed=3)
    assert cfg.randomness.seed == 3
    assert cfg.model.loss_kd.temperature.tau_range == 7.59
    cfg.model.loss_kd.temperature = shipped.model.loss_kd.temperature
    assert cfg.to_dict() == shipped.to_dict()
    lr = digits.make_config('ablation-lr', seed=3).optim_wrapper.paramwise_cfg
    assert lr.custom_keys['loss_kd.temperature'] == dict(lr_mult=1, decay_mult=0)
    control = digits.make_config('control-ctkd', seed=3, tau=4.5)
    assert control.model.loss_kd == dict(type='mmrazor.KLDivergence', tau=4.5)
    inside = digits.make_config('control-zscore', seed=3, tau=4.5)
    assert inside.model.loss_kd.loss.temperature.tau == 4.5


def test_a_config_made_again_is_the_same(sets):
    for data in sets.values():
        for name, run in data.runs.items():
            before = copy.deepcopy(run)
            first, again = (data.make_config(name, 0, 2.0).to_dict() for _ in 'ab')
            assert first == again, name
            assert run == before, name


def test_a_log_of_another_entry_does_not_count(digits, copied_logs):
    assert digits.read_log('kd-t2', 0)
    digits.runs['kd-t2']['changes'].loss_kd.tau = 3
    assert digits.read_log('kd-t2', 0) is None


def test_a_controls_log_counts_only_with_the_tau_its_source_ended_with(
    digits, copied_logs
):
    source = copied_logs / 'digits' / 'ctkd' / 'seed0.json'
    assert digits.read_log('control-ctkd', 0)
    log = json.loads(source.read_text())
    log['curves']['tau'][-1] += 0.1
    source.write_text(json.dumps(log))
    assert digits.read_log('control-ctkd', 0) is None
    source.unlink()
    assert digits.read_log('control-ctkd', 0) is None


def test_every_log_is_of_the_loss_that_its_config_has_now(experiments, sets):
    make_method, load_logs = (
        experiments('record').make_method,
        experiments('results').load_logs,
    )
    for data in sets.values():
        for name, logs in load_logs(data).items():
            run = data.runs[name]
            for log in logs:
                source = run.get('tau_of')
                tau = source and data.final_tau(source, log['seed'])
                loss = make_method(run, tau).loss_kd if run['method'] else None
                assert log['loss_kd'] == loss, (name, log['seed'])


def test_the_page_is_what_the_logs_say(experiments, sets, root):
    load_logs = experiments('results').load_logs
    logs = {name: load_logs(data) for name, data in sets.items()}
    page = experiments('page').write_page(sets, logs)
    assert page == (root / 'docs' / 'results.md').read_text()


def read_tables(page: Path) -> dict[str, list[list[list[str]]]]:
    """Tables of a page by the title of their section; of each the cells by row."""
    sections: dict = {}
    for text in page.read_text().split('\n## ')[1:]:
        title, tables = text.split('\n')[0], [[]]
        for line in text.splitlines():
            if line.startswith('|') and not line.startswith('|---'):
                tables[-1].append([cell.strip() for cell in line[1:-1].split('|')])
            elif tables[-1] and not line.startswith('|'):
                tables.append([])
        sections[title] = [table for table in tables if table]
    assert 'Scanned digits' in sections  # others may not have been run yet
    return sections


def measured(root: Path, data) -> dict[str, list[float]]:
    """The box mAP of each seed, by the title of the run, straight from the logs."""
    maps = {}
    for name, run in data.runs.items():
        folder = root / 'experiments' / 'logs' / data.name / name
        logs = [folder / f'seed{seed}.json' for seed in run['seeds']]
        if all(log.is_file() for log in logs):
            maps[run['title']] = [
                json.loads(log.read_text())['metrics']['bbox_mAP'] for log in logs
            ]
    return maps


def judged(cell: str) -> tuple[float, float, str]:
    figures, verdict = cell.split(': ')
    return (*map(float, figures.split('±')), verdict)


def test_every_difference_is_scipys_and_its_verdict_statsmodels_rule(sets, root):
    tables = read_tables(root / 'docs' / 'results.md')
    for data in (sets[name] for name in sets if sets[name].title in tables):
        maps = measured(root, data)
        methods, pairs, *_ = tables[data.title]
        rows = [(row[0], 'student alone', row[3]) for row in methods[1:]]
        rows = [row for row in rows if row[0] != 'student alone'] + pairs[1:]
        tests = [scipy.stats.ttest_rel(maps[a], maps[b]) for a, b, _ in rows]
        ranks = np.argsort(np.argsort([test.pvalue for test in tests]))
        smallest_kept = min(
            (r for r, t in zip(ranks, tests) if t.pvalue * (len(rows) - r) >= 0.05),
            default=len(rows),
        )
        for (a, b, cell), test, rank in zip(rows, tests, ranks):
            low, high = test.confidence_interval(0.95)
            mean, half, verdict = judged(cell)
            assert mean == pytest.approx((low + high) / 2, abs=6e-4), (a, b)
            assert half == pytest.approx((high - low) / 2, abs=6e-4), (a, b)
            sign = 'better' if low + high > 0 else 'worse'
            shown = sign if rank < smallest_kept else 'no difference shown'
            assert verdict == shown, (a, b)
        assert len(rows) > 5


def test_every_runs_mean_and_interval_are_scipys(sets, root):
    tables = read_tables(root / 'docs' / 'results.md')
    for data in (sets[name] for name in sets if sets[name].title in tables):
        shown = {
            row[0]: [float(number) for number in cell.split('±')]
            for row in sum(tables[data.title], [])
            for cell in row[1:3]
            if re.fullmatch(r'[\d.]+ ± [\d.]+', cell)
        }
        maps = measured(root, data)
        assert shown.keys() == maps.keys()
        for title, values in maps.items():
            half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
            assert shown[title] == pytest.approx([np.mean(values), half], abs=6e-4)


def make_log(bbox_map: float, tau: float, kd: list[float]) -> dict:
    """A compact log of two epochs of two lines; the loss is 4 in each of them."""
    return dict(
        metrics=dict(bbox_mAP=bbox_map),
        epochs=[1, 1, 2, 2],
        curves={'distill.loss_kd': kd, 'loss': [4.0] * 4},
        loss_kd=dict(tau=tau),
    )


def test_a_share_is_the_mean_of_the_epochs(experiments):
    pictures = experiments('pictures')
    log = make_log(0.3, 2, [4, 2, 1, 1])  # 6 of 8, then 2 of 8
    assert pictures.shares(log, pictures.KD, ['loss']).tolist() == [0.75, 0.25]
    stopped = make_log(0.3, 2, [4, 4, 0, 0])
    assert pictures.share_of_loss([log, log]) == 0.5
    assert pictures.share_of_loss([log, stopped]) == 0.5
    assert np.isnan(pictures.share_of_loss([dict(curves={})]))


def test_ranks_order_the_gains_by_share_and_by_tau(experiments):
    logs = dict(
        student=[make_log(0.3, 0, [0] * 4)] * 2,
        light=[make_log(0.4, 8, [1] * 4)] * 2,
        even=[make_log(0.3, 1, [2] * 4)] * 2,
        heavy=[make_log(0.2, 2, [3] * 4)] * 2,
        zscored=[{**make_log(0.1, 99, [4] * 4), 'loss_kd': dict(loss=dict(tau=99))}]
        * 2,
    )
    # The more share, the less gain; of tau 8, 1, 2 the gains have ranks 3, 2, 1: the
    # differences of ranks are 0, 1, 1, so 1 - 6 · 2 / (3 · 8) = 0.5.
    ranks = experiments('page')._ranks(logs)
    assert ranks == dict(share_rank='-1.00', tau_rank='0.50')


@pytest.mark.usefixtures('pinned_matplotlib')
def test_rebuilding_changes_no_byte(experiments, root, tmp_path):
    experiments('results').rebuild(tmp_path)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) > 2
    for name in names:
        assert (tmp_path / name).read_bytes() == (root / 'docs' / name).read_bytes()


def test_a_run_without_one_of_its_logs_is_not_on_the_page(
    experiments, copied_logs, tmp_path
):
    (copied_logs / 'digits' / 'dkd' / 'seed2.json').unlink()
    experiments('results').rebuild(tmp_path)
    page = (tmp_path / 'results.md').read_text()
    section = page.split('\n## ')[1]
    assert section.startswith('Scanned digits')
    assert '| DKD, T = 1 |' not in section and 'Not run yet: DKD, T = 1.' in section


def test_every_log_counts(experiments, sets):
    write_page, load_logs = (
        experiments('page').write_page,
        experiments('results').load_logs,
    )
    logs = {name: load_logs(data) for name, data in sets.items()}
    page = write_page(sets, logs)
    for name, seeds in logs['digits'].items():
        metrics = seeds[1]['metrics']
        metrics['bbox_mAP'] += 0.1
        assert write_page(sets, logs) != page, name
        metrics['bbox_mAP'] -= 0.1


def test_the_doctor_is_right_about_the_trajectories_on_photographs(experiments, sets):
    """At loss weight 1 the loss dwarfs the student's, of z-scored logits not."""
    ratios: dict[str, list[float]] = dict(overweight=[], healthy=[])
    page = experiments('page')
    for data in (sets['close'], sets['bccd']):
        for name in ('ctkd', 'ctkd-official', 'ctkd-zscore'):
            for seed in data.runs.get(name, {}).get('seeds', ()):
                log = data.read_log(name, seed)
                if log is not None:
                    verdict = page._diagnose(log)
                    assert verdict == (
                        ['healthy'] if name == 'ctkd-zscore' else ['overweight']
                    ), (data.name, name, seed)
                    curves = log['curves']
                    kd, own = (
                        np.array(curves[key][-(len(curves[key]) // 3) :])
                        for key in ('distill.loss_kd', 'student.loss_cls')
                    )
                    ratios[verdict[0]].append(kd.mean() / own.mean())
    assert len(ratios['overweight']) >= 3 and len(ratios['healthy']) >= 3
    # The threshold of 2 is far from both.
    assert max(ratios['healthy']) < 1 and min(ratios['overweight']) > 4
