"""What the tests of whole programs share."""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from pathlib import Path

import pytest


@pytest.fixture
def bench(root, monkeypatch, tmp_path):
    """Run a benchmark with other constants; return its module and its JSON."""
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    monkeypatch.chdir(root)
    # They switch MMEngine's logs off for the whole process; restored with the rest.
    monkeypatch.setattr(logging.root.manager, 'disable', logging.NOTSET)

    def run(name, *options, **constants):
        module = importlib.import_module(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        arguments = [f'{name}.py', '--out', str(tmp_path), *options]
        monkeypatch.setattr(sys, 'argv', arguments)
        module.main()
        (path,) = tmp_path.glob(f'{name}*.json')
        return module, json.loads(path.read_text())

    return run


@pytest.fixture
def pinned_matplotlib(root: Path) -> None:
    """Skip where pictures would have other bytes than those in the repository."""
    matplotlib = pytest.importorskip('matplotlib')
    pin = re.search(r'matplotlib==(\S+)', (root / 'Makefile').read_text()).group(1)
    if matplotlib.__version__ != pin:
        pytest.skip(f'the bytes are those of matplotlib {pin}')
