"""What the documentation shows, run; the site, built."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, Registry

import ctkd_mm
from ctkd_mm import registry


def python_blocks(root) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (root / 'README.md').read_text(), re.S)


@pytest.fixture
def script(root, monkeypatch):
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(root / 'docs')
    return importlib.import_module


def public_names() -> dict[str, str]:
    """Map every name to import from ctkd_mm or to use in a config to its module."""
    found = {name: getattr(ctkd_mm, name) for name in ctkd_mm.__all__}
    for value in vars(registry).values():
        if isinstance(value, Registry) and value.scope == 'ctkd_mm':
            value.import_from_location()
            found.update(value.module_dict)
    return {name: item.__module__ for name, item in found.items()}


@pytest.fixture(scope='module')
def site(root, tmp_path_factory) -> Path:
    """The site, built as `make docs` does."""
    pytest.importorskip(
        'mkdocstrings_handlers', reason='the extra docs builds the site'
    )
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', str(folder)]
    build = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert build.returncode == 0, build.stdout
    return folder


def test_the_readmes_tables_are_those_of_the_configs(root, script):
    table = script('config_table')
    readme = (root / 'README.md').read_text()
    assert table.with_tables(readme) == readme
    linked = set(re.findall(r'\((configs/[^)]+)\)', readme))
    assert all((root / path).is_file() for path in linked)
    leaves = set((root / 'configs').glob('[!_]*/*.py'))
    leaves -= set((root / 'configs' / 'demo').iterdir())
    assert leaves == {root / path for path in linked} & leaves


def test_every_relative_link_of_a_page_leads_to_a_file(root):
    pages = [*root.glob('*.md'), *(root / 'docs').rglob('*.md')]
    assert len(pages) >= 6
    for page in pages:
        for link in re.findall(r'\]\(([^):#]+)(?:#[^)]*)?\)', page.read_text()):
            assert (page.parent / link).exists(), f'{page.name}: {link}'


def test_the_reference_has_every_module_once(root):
    pages = (root / 'docs' / 'api').glob('*.md')
    shown = re.findall(
        r'^::: ctkd_mm\.([\w.]+)$', '\n'.join(p.read_text() for p in pages), re.M
    )
    package = root / 'ctkd_mm'
    paths = [path.relative_to(package) for path in package.rglob('[!_]*.py')]
    paths = [path for path in paths if path.parts[0] != 'compat']
    modules = ['.'.join(path.with_suffix('').parts) for path in paths]
    assert sorted(shown) == sorted(modules)


def test_the_references_front_page_has_every_public_name(root):
    index = (root / 'docs' / 'api' / 'index.md').read_text()
    shown = dict(re.findall(r'\[(\w+)\]\(\w+\.md#([\w.]+)\)', index))
    names = public_names()
    assert len(names) > 40
    for name, module in names.items():
        assert shown.get(name) == f'{module}.{name}'


def test_links_out_of_the_documentation_become_paths_on_the_site(script):
    pytest.importorskip('griffe', reason='of the extra docs')
    rewrite = script('rewrite').on_page_markdown
    assert rewrite('in [`x`](../ctkd_mm/x.py), ') == 'in `ctkd_mm/x.py`, '
    assert rewrite('[Makefile](../Makefile)') == '`Makefile`'
    assert rewrite('[a test](../tests/y.py)') == 'a test (`tests/y.py`)'
    kept = '[page](other.md#part), [up](../scaling.md), [site](https://a.org/../b)'
    assert rewrite(kept) == kept


@pytest.mark.usefixtures('pinned_matplotlib')
def test_the_figure_of_the_step_is_what_its_script_draws(root, script, tmp_path):
    drawn = script('step_figure').write(tmp_path / 'step.svg')
    assert drawn.read_bytes() == (root / 'docs' / 'step.svg').read_bytes()


def test_the_site_has_an_entry_for_every_public_name(site):
    from mkdocstrings import Inventory

    with (site / 'objects.inv').open('rb') as file:
        entries = Inventory.parse_sphinx(file)
    for name, module in public_names().items():
        assert f'{module}.{name}' in entries


def test_the_site_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob('*.html'))
    assert len(pages) >= 20
    for page in pages:
        text = page.read_text()
        assert not re.search(r'<(script|img|iframe)[^>]+src=.?(https?:)?//', text), page
        assert not re.search(r'<link[^>]+href=.?(https?:)?//', text), page


def test_the_site_publishes_pages_and_pictures_only(site):
    assert not list(site.rglob('*.py*'))


def test_docstrings_on_the_site_have_no_roles_of_sphinx(site):
    for page in (site / 'api').rglob('*.html'):
        assert not re.search(r':(class|func|meth|mod|attr):', page.read_text()), page
    losses = (site / 'api' / 'losses' / 'index.html').read_text()
    assert (
        'href="../temperatures/#ctkd_mm.models.temperatures.fixed.SpreadTemperature"'
        in losses
    )


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
