from __future__ import annotations

import json
import mmap
import re
import sys

import numpy as np
import pytest


@pytest.fixture
def soak(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    import soak

    return soak


def test_slope_and_its_error_are_those_of_a_known_line(soak):
    x = np.arange(2000.0)
    y = 7 + 0.25 * x + np.random.default_rng(0).normal(0, 3, 2000)
    value, error = soak.slope(x, y)
    assert error == pytest.approx(3 / np.sqrt(2000**3 / 12), rel=0.05)
    assert abs(value - 0.25) < 3 * error


def test_the_memory_that_is_kept_is_seen(soak):
    # Not from the heap, where earlier tests may have left as much to be used again.
    before, kept = soak.rss_kib(), mmap.mmap(-1, 64 << 20)
    for page in range(0, len(kept), mmap.PAGESIZE):
        kept[page] = 1
    assert soak.rss_kib() - before == pytest.approx(len(kept) / 1024, rel=0.05)


def test_thirds_leave_the_warm_up_out(soak):
    readings = soak.Readings(soak.BeforeHooks())
    for i in range(1, 201):
        readings.ends.append(i * 0.1 if i <= 50 else 5 + (i - 50) * 0.2)
        readings.logging.append(1.0 if i <= 50 else 0.002)
        if i % soak.EVERY == 0:
            readings.at.append(i)
            readings.rss.append(1e6 - 5e4 * (i <= 50) + 3 * i + max(0, i - 120))
            readings.log_bytes.append(150 * i)
    results = soak.summary(readings)
    (late, _), (last, error) = results['rss_slopes_kib_per_iteration']
    assert 3 < late < 4
    assert (last, error) == pytest.approx((4, 0), abs=1e-6)
    assert results['seconds_per_iteration'] == pytest.approx([0.2, 0.2])
    assert results['logging_ms_per_iteration'] == pytest.approx([2, 2])
    assert results['log_bytes_per_iteration'] == pytest.approx([150, 150])


@pytest.mark.start
def test_one_command_measures_the_demo_pair(soak, root, tmp_path, monkeypatch, capsys):
    for name, value in dict(BATCH_SIZE=2, PER_EPOCH=12, EVERY=2).items():
        monkeypatch.setattr(soak, name, value)
    line = ['soak.py', '--iterations', '36', '--out', str(tmp_path / 'soak')]
    monkeypatch.setattr(sys, 'argv', line)
    monkeypatch.chdir(root)
    soak.main()
    results = json.loads((tmp_path / 'soak' / 'soak.json').read_text())
    assert results['iterations'] == 36
    assert len(results['series']['rss_kib']) == 18
    # Measured: 0, and 2952 where the steps' graphs are kept.
    _, (last, _) = results['rss_slopes_kib_per_iteration']
    assert last < 1000
    number = r'[+-]\d+\.\d{3} \+- \d+\.\d{3}'
    shown = capsys.readouterr().out
    assert re.search(f'two thirds {number} KiB.* last {number}', shown)
