"""The examples of the docstrings, run as the reference says that they run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import ctkd_mm

PACKAGE = Path(ctkd_mm.__file__).parent
MODULES = sorted(
    '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
    for path in PACKAGE.rglob('*.py')
    if '>>> ' in path.read_text()
)
EXPORTED = {name: getattr(ctkd_mm, name) for name in ctkd_mm.__all__}


@pytest.mark.parametrize('name', MODULES)
def test_the_examples_give_what_they_show(name):
    module = importlib.import_module(f'ctkd_mm.{name}')
    own = {
        key: value
        for key, value in vars(module).items()
        if getattr(value, '__module__', None) == module.__name__
    }
    torch.manual_seed(0)
    result = doctest.testmod(module, globs=dict(torch=torch, **{**EXPORTED, **own}))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize('name', [n for n in EXPORTED if not n.endswith('Hook')])
def test_every_export_has_an_example(name):
    """But the hooks, which need a whole training."""
    found = doctest.DocTestFinder(recurse=False).find(EXPORTED[name], name)
    assert any(test.examples for test in found)
