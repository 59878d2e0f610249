"""The four tiers of the tests, see pyproject.toml."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from emulated_cuda import device
from mmengine.runner import Runner

TIERS = ('emulated_cuda', 'process', 'start', 'unit')  # the longest tests first


def tier(item: pytest.Item) -> str:
    """The tier that a test is marked with, ``unit`` without a mark."""
    return next(filter(item.get_closest_marker, TIERS), 'unit')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tier ``unit``, and put modules with long tests before the others.

    A worker of pytest-xdist takes a module at a time, in this order: the short ones
    come last, so both workers end at about the same time.
    """
    first: dict[Path, int] = {}
    for item in items:
        item.add_marker(tier(item))
        place = TIERS.index(tier(item))
        first[item.path] = min(place, first.get(item.path, place))
    items.sort(key=lambda item: first[item.path])


@pytest.fixture(autouse=True)
def _tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold a test to its tier, so that the marks stay true."""
    is_emulated = request.node.get_closest_marker('emulated_cuda') is not None
    assert device.loaded() == is_emulated, 'mark this test emulated_cuda'
    if request.node.get_closest_marker('process'):
        return
    is_unit = request.node.get_closest_marker('unit') is not None
    popen, build = subprocess.Popen.__init__, Runner.__init__

    @functools.wraps(popen)
    def start_process(self: Any, args: Any, *others: Any, **more: Any) -> None:
        # A Runner asks a compiler and git for their versions.
        assert not is_unit and sys.executable not in args, 'mark this test process'
        popen(self, args, *others, **more)

    # Its signature tells which keys of a config are a Runner's.
    @functools.wraps(build)
    def start_runner(self: Any, *args: Any, **more: Any) -> None:
        assert not is_unit, 'mark this test start'
        build(self, *args, **more)

    monkeypatch.setattr(subprocess.Popen, '__init__', start_process)
    monkeypatch.setattr(Runner, '__init__', start_runner)
