"""The ledger's runs and logs, and the page that is made of them alone."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats


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


def test_an_interval_is_students(experiments):
    mean, half = experiments('intervals').interval([1, 2, 3, 4, 5])
    assert mean == 3
    # t(0.975; 4) = 2.776, s = sqrt(2.5)
    assert half == pytest.approx(2.776 * 2.5**0.5 / 5**0.5, rel=1e-3)


def test_a_difference_is_paired_and_better_only_beyond_its_interval(experiments):
    paired = experiments('intervals').paired
    gain = paired([0.2, 0.3, 0.4], [0.1, 0.2, 0.31])
    assert gain.mean == pytest.approx(0.29 / 3)
    assert gain.half == pytest.approx(4.303 * (0.01 / 3**0.5) / 3**0.5, rel=1e-3)
    assert gain.verdict == 'better'
    assert paired([0.1, 0.2, 0.31], [0.2, 0.3, 0.4]).verdict == 'worse'
    assert paired([0.1, 0.2], [0.2, 0.1]).verdict == 'no difference shown'


def test_every_method_has_the_same_seeds_and_every_ablation_some_of_them(experiments):
    record = experiments('record')
    runs = record.load_runs()
    for name, run in runs.items():
        count = 3 if record.is_ablation(name) else len(runs['ctkd']['seeds'])
        assert list(run['seeds']) == list(range(count)), name


def test_a_run_is_the_demos_config_with_its_method_seed_and_changes(experiments):
    record = experiments('record')
    runs = record.load_runs()
    cfg = record.make_config(runs['ctkd'], seed=3)
    shipped = record.make_config(runs['ablation-shipped'], seed=3)
    assert cfg.randomness.seed == 3
    assert cfg.model.loss_kd.temperature.tau_range == 7.59
    cfg.model.loss_kd.temperature = shipped.model.loss_kd.temperature
    assert cfg.to_dict() == shipped.to_dict()
    lr = record.make_config(runs['ablation-lr'], seed=3).optim_wrapper.paramwise_cfg
    assert lr.custom_keys['loss_kd.temperature'] == dict(lr_mult=1, decay_mult=0)
    control = record.make_config(runs['control-ctkd'], seed=3, tau=4.5)
    assert control.model.loss_kd == dict(type='mmrazor.KLDivergence', tau=4.5)


def test_a_log_of_another_entry_does_not_count(experiments, copied_logs):
    record = experiments('record')
    runs = record.load_runs()
    assert record.read_log('kd-t2', 0, runs)
    runs['kd-t2']['changes'].loss_kd.tau = 3
    assert record.read_log('kd-t2', 0, runs) is None


def test_a_controls_log_counts_only_with_the_tau_its_source_ended_with(
    experiments, copied_logs
):
    record = experiments('record')
    runs, source = record.load_runs(), copied_logs / 'ctkd' / 'seed0.json'
    assert record.read_log('control-ctkd', 0, runs)
    log = json.loads(source.read_text())
    log['curves']['tau'][-1] += 0.1
    source.write_text(json.dumps(log))
    assert record.read_log('control-ctkd', 0, runs) is None
    source.unlink()
    assert record.read_log('control-ctkd', 0, runs) is None


def test_every_log_is_of_the_loss_that_its_config_has_now(experiments):
    record = experiments('record')
    runs = record.load_runs()
    for name, run in runs.items():
        for seed in run['seeds']:
            tau = run.get('tau_of') and record.final_tau(run['tau_of'], seed, runs)
            loss = record.make_method(run, tau).loss_kd if run['method'] else None
            assert record.read_log(name, seed, runs)['loss_kd'] == loss, (name, seed)


def test_the_page_is_what_the_logs_say(experiments, root):
    runs, results = experiments('record').load_runs(), experiments('results')
    page = experiments('page').write_page(runs, results.load_logs(runs))
    assert page == (root / 'docs' / 'results.md').read_text()


def read_tables(page: Path) -> list[list[list[str]]]:
    """Cells of every table of a Markdown page, by row, without emphasis."""
    tables = [[]]
    for line in page.read_text().splitlines():
        if line.startswith('|---'):
            continue
        if line.startswith('|'):
            tables[-1].append([cell.strip(' *') for cell in line[1:-1].split('|')])
        elif tables[-1]:
            tables.append([])
    return tables


@pytest.fixture
def measured(experiments, root) -> dict[str, list[float]]:
    """The box mAP of each seed, by the title of the run, straight from the logs."""
    maps = {}
    for name, run in experiments('record').load_runs().items():
        folder = root / 'experiments' / 'logs' / name
        logs = [folder / f'seed{seed}.json' for seed in run['seeds']]
        maps[run['title']] = [
            json.loads(log.read_text())['metrics']['bbox_mAP'] for log in logs
        ]
    return maps


@pytest.fixture
def answer(root, measured) -> list[list[str]]:
    """The page's table whose columns are of runs."""
    tables = read_tables(root / 'docs' / 'results.md')
    (found,) = [t for t in tables if t and all(title in measured for title in t[0][1:])]
    return found


def test_the_answer_is_scipys(answer, measured):
    (_, *others), *rows = answer
    for title, *cells in rows:
        for other, cell in zip(others, cells):
            test = scipy.stats.ttest_rel(measured[title], measured[other])
            low, high = test.confidence_interval(0.95)
            figures, verdict = cell.split(': ')
            mean, half = map(float, figures.split('±'))
            assert mean == pytest.approx((low + high) / 2, abs=6e-4)
            assert half == pytest.approx((high - low) / 2, abs=6e-4)
            sign = 'better' if low > 0 else 'worse'
            shown = sign if test.pvalue < 0.05 else 'no difference shown'
            assert verdict == shown, (title, other)
    assert len(others) > 1 and len(rows) > 1


def test_the_answers_baseline_is_the_best_constant_temperature(
    experiments, answer, measured
):
    constant = [
        run['title']
        for run in experiments('record').load_runs().values()
        if run['method'] == 'kd'
        and 'loss_weight' not in run.get('changes', {}).get('loss_kd', {})
    ]
    assert answer[0][1] == max(constant, key=lambda title: np.mean(measured[title]))
    assert len(constant) > 2


def test_every_runs_mean_and_interval_are_scipys(root, measured):
    rows = sum(read_tables(root / 'docs' / 'results.md'), [])
    shown = {
        title: [float(number) for number in cell.split('±')]
        for title, cell, *_ in rows
        if title in measured and re.fullmatch(r'[\d.]+ ± [\d.]+', cell)
    }
    assert shown.keys() == measured.keys()
    for title, maps in measured.items():
        half = scipy.stats.sem(maps) * scipy.stats.t.ppf(0.975, len(maps) - 1)
        assert shown[title] == pytest.approx([np.mean(maps), half], abs=6e-4), title


@pytest.mark.usefixtures('pinned_matplotlib')
def test_rebuilding_changes_no_byte(experiments, root, tmp_path):
    experiments('results').rebuild(tmp_path)
    for name in ('results.md', 'results_map.svg', 'results_tau.svg'):
        assert (tmp_path / name).read_bytes() == (root / 'docs' / name).read_bytes()


def test_a_figure_without_its_log_is_refused(experiments, copied_logs, tmp_path):
    (copied_logs / 'ctkd' / 'seed2.json').unlink()
    with pytest.raises(FileNotFoundError, match='ctkd/seed2.json is missing'):
        experiments('results').rebuild(tmp_path)


def test_every_log_counts(experiments):
    runs, results = experiments('record').load_runs(), experiments('results')
    logs, write_page = results.load_logs(runs), experiments('page').write_page
    page = write_page(runs, logs)
    for name in runs:
        metrics = logs[name][1]['metrics']
        metrics['bbox_mAP'] += 0.1
        assert write_page(runs, logs) != page, name
        metrics['bbox_mAP'] -= 0.1
