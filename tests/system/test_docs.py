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
from mmengine.registry import MODELS

import ctkd_mm


def block(root: Path, page: str, part: str) -> str:
    """The one block of Python in a page of the guide that has this part."""
    text = (root / 'docs' / page).read_text()
    (found,) = [b for b in re.findall(r'```python\n(.*?)```', text, re.S) if part in b]
    return found


@pytest.fixture
def script(root, monkeypatch):
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(root / 'docs')
    return importlib.import_module


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


def test_the_tables_of_the_methods_are_those_of_the_configs(root, script):
    table = script('config_table')
    page = table.PAGE.read_text()
    assert table.with_tables(page) == page
    linked = set(re.findall(r'\(\.\./(configs/[^)]+)\)', page))
    assert all((root / path).is_file() for path in linked)
    leaves = set((root / 'configs').glob('[!_]*/*.py'))
    leaves -= set((root / 'configs' / 'demo').iterdir())
    assert leaves == {root / path for path in linked} & leaves


def test_the_readmes_table_has_every_method_in_the_column_of_its_classes(root):
    readme = (root / 'README.md').read_text()
    rows = [line.split('|')[2:4] for line in readme.splitlines() if line[:1] == '|']
    softmax, sigmoid = (re.findall(r'`([\w-]+)`', ' '.join(c)) for c in zip(*rows))
    methods = {p.stem for p in (root / 'configs/_base_/methods').glob('*.py')}
    dense = {name for name in methods if name.endswith(('-dense', '-ld'))}
    assert sorted(sigmoid) == sorted(dense)
    assert sorted(softmax) == sorted(methods - dense - {'ctkd-classification'})


def test_the_readme_is_short_and_its_commands_are_files_and_targets(root):
    readme = (root / 'README.md').read_text()
    assert len(readme.splitlines()) <= 150
    for path in re.findall(r'(?<![\w/])(?:tools|configs)/[\w./-]+\w', readme):
        assert (root / path).exists(), path
    targets = set(re.findall(r'^(\w[\w-]*):', (root / 'Makefile').read_text(), re.M))
    assert set(re.findall(r'\bmake ([\w-]+)', readme)) <= targets


def test_every_relative_link_of_a_page_leads_to_a_file(root):
    pages = [*root.glob('*.md'), *(root / 'docs').rglob('*.md')]
    assert len(pages) >= 6
    for page in pages:
        for link in re.findall(r'\]\(([^):#]+)(?:#[^)]*)?\)', page.read_text()):
            assert (page.parent / link).exists(), f'{page.name}: {link}'


def test_the_reference_has_every_module_once(root, script):
    table = script('api_table')
    package = root / 'ctkd_mm'
    paths = [path.relative_to(root) for path in package.rglob('[!_]*.py')]
    modules = ['.'.join(path.with_suffix('').parts) for path in paths]
    modules = [name for name in modules if not name.startswith('ctkd_mm.compat.')]
    assert len(modules) > 40
    for name in modules:
        assert table.page_of(name)  # or it raises
    for part in (name for names in table.shown().values() for name in names):
        assert (root / part.replace('.', '/')).is_dir() or part in modules, part


def test_a_module_on_two_pages_of_the_reference_is_found_out(script, monkeypatch):
    table = script('api_table')
    twice = {'a': ['ctkd_mm.models'], 'b': ['ctkd_mm.models.losses']}
    monkeypatch.setattr(table, 'shown', lambda: twice)
    with pytest.raises(ValueError, match='is on the pages'):
        table.page_of('ctkd_mm.models.losses.kd_loss')
    assert table.page_of('ctkd_mm.models.heads.roi_head') == 'a'


def test_the_references_front_page_has_every_public_name(script):
    table = script('api_table')
    index = (table.API / 'index.md').read_text()
    assert table.with_tables(index) == index
    names = table.public_names()
    assert set(ctkd_mm.__all__) < set(names)
    assert len(names) > 40
    for name, item in names.items():
        assert f'#{item.__module__}.{name})' in index


def test_links_out_of_the_documentation_become_paths_on_the_site(script):
    pytest.importorskip('griffe', reason='of the extra docs')
    rewrite = script('rewrite').on_page_markdown
    assert rewrite('in [`x`](../ctkd_mm/x.py), ') == 'in `ctkd_mm/x.py`, '
    assert rewrite('[Makefile](../Makefile)') == '`Makefile`'
    assert rewrite('[kd](../configs/kd.py)') == '`configs/kd.py`'
    assert rewrite('[a test](../tests/y.py)') == 'a test (`tests/y.py`)'
    kept = '[page](other.md#part), [up](../scaling.md), [site](https://a.org/../b)'
    assert rewrite(kept) == kept


@pytest.mark.usefixtures('pinned_matplotlib')
def test_the_figure_of_the_step_is_what_its_script_draws(root, script, tmp_path):
    drawn = script('step_figure').write(tmp_path / 'step.svg')
    assert drawn.read_bytes() == (root / 'docs' / 'step.svg').read_bytes()


@pytest.mark.process
def test_the_site_has_an_entry_for_every_public_name(site, script):
    from mkdocstrings import Inventory

    with (site / 'objects.inv').open('rb') as file:
        entries = Inventory.parse_sphinx(file)
    for name, item in script('api_table').public_names().items():
        assert f'{item.__module__}.{name}' in entries


@pytest.mark.process
def test_the_site_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob('*.html'))
    assert len(pages) >= 20
    for page in pages:
        text = page.read_text()
        assert not re.search(r'<(script|img|iframe)[^>]+src=.?(https?:)?//', text), page
        assert not re.search(r'<link[^>]+href=.?(https?:)?//', text), page


@pytest.mark.process
def test_the_site_publishes_pages_and_pictures_only(site):
    assert not list(site.rglob('*.py*'))


@pytest.mark.process
def test_docstrings_on_the_site_have_no_roles_of_sphinx(site):
    for page in (site / 'api').rglob('*.html'):
        assert not re.search(r':(class|func|meth|mod|attr):', page.read_text()), page
    losses = (site / 'api' / 'losses' / 'index.html').read_text()
    assert (
        'href="../temperatures/#ctkd_mm.models.temperatures.fixed.SpreadTemperature"'
        in losses
    )


def test_the_guides_adapter_starts_at_the_losss_own_temperature(root):
    exec(block(root, 'methods.md', 'WithTemperature'), names := {})
    loss = MODELS.build(names['loss_ld'])
    preds = torch.randn(8, 17, generator=torch.Generator().manual_seed(0))
    assert loss(preds, preds + 1).item() == pytest.approx(0, abs=1e-6)
    assert loss.temperature.tau.item() == pytest.approx(10)


def test_the_guides_loop_trains_student_and_temperature(root):
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
    exec(block(root, 'how-it-works.md', 'optimizer.step()'), names)
    temperature = names['loss_kd'].temperature
    assert temperature.grl.lambda_ == 1.0
    assert temperature.raw_tau.item() != 1.0
