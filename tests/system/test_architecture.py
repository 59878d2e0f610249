"""The floors of the package: a package imports only what stands below it."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import ctkd_mm

PACKAGE = Path(ctkd_mm.__file__).parent
# The highest first; those of one floor do not import each other.
FLOORS = (
    {'__main__'},
    {'cli'},
    {'demo'},
    {'analysis', 'apis'},
    {'checks'},
    {'engine'},
    {'models', 'evaluation'},
    {'utils', 'compat', 'registry'},
)
LEVEL = {name: -i for i, names in enumerate(FLOORS) for name in names}
# Inside models: algorithms over losses over temperatures.
MODELS = dict(algorithms=2, losses=1, temperatures=0)
LIGHT = {'mmdet', 'mmrazor', 'mmcv', 'matplotlib'}


def imports(path: Path) -> set[str]:
    """Dotted names of our modules that a file imports anywhere."""
    here = path.relative_to(PACKAGE.parent).with_suffix('').parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = '.'.join(here[: -node.level]) if node.level else ''
            found.add('.'.join(filter(None, (base, node.module))))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split('.')[0] == 'ctkd_mm'}


def modules() -> list[str]:
    return sorted(
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob('*.py')
        if path.parent != PACKAGE or path.stem != '__init__'
    )


def test_a_package_imports_only_what_stands_below_it():
    for name in modules():
        own = Path(name).with_suffix('').parts
        for parts in (module.split('.')[1:] for module in imports(PACKAGE / name)):
            if parts and parts[0] != own[0]:
                assert LEVEL[parts[0]] < LEVEL[own[0]], (name, parts)
            elif {own[0], *parts[:1]} == {'models'} and parts[1] != own[1]:
                assert MODELS.get(parts[1], 0) < MODELS.get(own[1], 3), (name, parts)


def test_no_folder_holds_over_8_modules_and_no_file_over_250_lines():
    lines = {name: len((PACKAGE / name).read_text().splitlines()) for name in modules()}
    assert {name: n for name, n in lines.items() if n > 250} == {}
    folders = Counter(
        str(Path(name).parent) for name in modules() if '__init__' not in name
    )
    assert {name: n for name, n in folders.items() if n > 8} == {}


def test_the_tools_import_the_cli_alone():
    for path in (PACKAGE.parent / 'tools').glob('*.py'):
        assert imports(path) == {'ctkd_mm.cli'}, path
        assert len(path.read_text().splitlines()) <= 10


@pytest.mark.process
def test_the_package_itself_stays_light():
    code = f"""
import sys
import ctkd_mm
assert 'mmengine.hooks' not in sys.modules  # a third of the time that torch takes
from ctkd_mm import CTKDLoss
assert not {LIGHT} & set(sys.modules)
sys.modules['mmrazor'] = None
loss = CTKDLoss(dict(type='ctkd_mm.GlobalTemperature'))
assert loss.temperature.tau_range == 20  # found by its name
assert 'mmdet' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', code], check=True)


def test_every_face_has_what_it_names():
    for path in sorted(PACKAGE.rglob('__init__.py')):
        name = '.'.join(path.parent.relative_to(PACKAGE.parent).parts)
        package = importlib.import_module(name)
        for public in getattr(package, '__all__', ()):
            value = getattr(package, public)
            assert getattr(value, '__name__', public) == public, (name, public)
