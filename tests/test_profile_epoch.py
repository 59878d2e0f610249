from __future__ import annotations

import time
from types import SimpleNamespace

import pytest


@pytest.fixture
def profile_epoch(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    import profile_epoch

    return profile_epoch


def test_each_part_has_its_own_time_alone(profile_epoch):
    clock = profile_epoch.Clock()
    owner = SimpleNamespace(inner=lambda: time.sleep(0.02))

    def outer():
        time.sleep(0.01)
        owner.inner()
        return 7

    owner.outer = outer
    clock.watch(owner, 'inner', 'inside')
    clock.watch(owner, 'outer', 'outside')
    assert owner.outer() == 7
    assert clock.seconds['inside'] == pytest.approx(0.02, abs=0.01)
    assert clock.seconds['outside'] == pytest.approx(0.01, abs=0.009)


def test_an_iterator_gives_what_it_gave(profile_epoch):
    clock = profile_epoch.Clock()
    assert list(clock.iterate(iter([3, 0, 5]), 'data loading')) == [3, 0, 5]
    assert clock.seconds['data loading'] > 0


def test_the_table_marks_what_is_ours(profile_epoch):
    rows = profile_epoch.rows({'teacher': 3.0, 'ctkd_mm.FiniteHook': 1.0}, 10)
    assert [list(row.values()) for row in rows] == [
        ['teacher', '', '75.00%', '300.00'],
        ['FiniteHook', 'x', '25.00%', '100.00'],
    ]
