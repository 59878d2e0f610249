from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture
def profile_epoch(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    import profile_epoch

    return profile_epoch


@pytest.fixture
def clock(profile_epoch, monkeypatch):
    """A clock whose time passes by ``now[0] += seconds`` alone."""
    now = [0.0]
    monkeypatch.setattr(profile_epoch.time, 'perf_counter', lambda: now[0])
    return profile_epoch.Clock(), now


def test_each_part_has_its_own_time_alone(clock):
    clock, now = clock
    owner = SimpleNamespace()

    def inner():
        now[0] += 2

    def outer():
        now[0] += 1
        owner.inner()
        now[0] += 4
        return 7

    owner.inner, owner.outer = inner, outer
    clock.watch(owner, 'inner', 'inside')
    clock.watch(owner, 'outer', 'outside')
    now[0] += 8
    assert owner.outer() == 7
    assert list(clock.seconds.values()) == [8, 5, 2]
    assert clock.seconds['inside'] == 2 and clock.seconds['outside'] == 5


@pytest.mark.start
def test_the_profile_of_an_epoch_names_what_is_ours(bench):
    _, figures = bench('profile_epoch', '--short', SHORT=2, BATCH_SIZE=2)
    parts, (goal,) = figures['tables'].values()
    assert sum(float(row['share'][:-1]) for row in parts) == pytest.approx(100, abs=1)
    ours = {row['part'] for row in parts if row['ours']}
    assert {'CurriculumHook', 'FiniteHook', 'CTKDLoss'} <= ours
    assert {'teacher', 'backward', 'validation'} <= {row['part'] for row in parts}
