"""What the documentation shows, run."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest
import torch
from mmengine.registry import MODELS

DOCTESTS = (
    'adapter',
    'bernoulli',
    'curriculum',
    'loss',
    'policies',
    'temperature',
    'zscore',
)


def python_blocks(root) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (root / 'README.md').read_text(), re.S)


@pytest.mark.parametrize('name', DOCTESTS)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f'ctkd_mm.{name}'))
    assert result.attempted
    assert not result.failed


def test_the_readmes_tables_are_those_of_the_configs(root, monkeypatch):
    monkeypatch.syspath_prepend(root / 'docs')
    table = importlib.import_module('config_table')
    readme = (root / 'README.md').read_text()
    assert table.with_tables(readme) == readme
    linked = set(re.findall(r'\((configs/[^)]+)\)', readme))
    assert all((root / path).is_file() for path in linked)
    leaves = set((root / 'configs').glob('[!_]*/*.py'))
    leaves -= set((root / 'configs' / 'demo').iterdir())
    assert leaves == {root / path for path in linked} & leaves


def test_every_relative_link_of_a_page_leads_to_a_file(root):
    pages = [*root.glob('*.md'), *(root / 'docs').glob('*.md')]
    assert len(pages) >= 6
    for page in pages:
        for link in re.findall(r'\]\(([^):#]+)\)', page.read_text()):
            assert (page.parent / link).exists(), f'{page.name}: {link}'


def test_the_readmes_adapter_starts_at_the_losss_own_temperature(root):
    (text,) = [b for b in python_blocks(root) if 'WithTemperature' in b]
    exec(text, names := {})
    loss = MODELS.build(names['loss_ld'])
    preds = torch.randn(8, 17, generator=torch.Generator().manual_seed(0))
    assert loss(preds, preds + 1).item() == pytest.approx(0, abs=1e-6)
    assert loss.temperature.tau.item() == pytest.approx(10)


def test_the_readmes_loop_trains_student_and_temperature(root):
    (text,) = [b for b in python_blocks(root) if 'optimizer.step()' in b]
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    teacher.requires_grad_(False)
    batch = torch.randn(16, 4), torch.randint(0, 3, (16,))
    names = dict(
        student=student,
        teacher=teacher,
        loader=[batch] * 3,
        task_loss=torch.nn.functional.cross_entropy,
    )
    exec(text, names)
    temperature = names['loss_kd'].temperature
    assert temperature.grl.lambda_ == 1.0
    assert temperature.raw_tau.item() != 1.0
