"""compat.stack against real installs, and against packages of other versions."""

import ast
import importlib
import sys
import textwrap
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from ctkd_mm.compat import stack

HERE = stack.installed_extra()
# What MMDetection and MMCV call themselves in the stack that runs these tests.
INSIDE = {
    'openmmlab': {'mmdet': '3.3.0', 'mmcv': '2.1.0'},
    'onedl': {'mmdet': '3.5.1', 'mmcv': '2.3.6'},
}[HERE]
BOUNDS = """\
    Metadata-Version: 2.1
    Name: ctkd_mm
    Version: 0.0.0
    Provides-Extra: openmmlab
    Provides-Extra: onedl
    Requires-Dist: torch>=1.0
    Requires-Dist: mmengine<1,>=0.10; extra == "openmmlab"
    Requires-Dist: mmcv<2.2,>=2.1.0; extra == "openmmlab"
    Requires-Dist: mmdet<4,>=3.3; extra == "openmmlab"
    Requires-Dist: mmrazor<2,>=1.0; extra == "openmmlab"
    Requires-Dist: joblib; extra == "openmmlab"
    Requires-Dist: setuptools<82; extra == "openmmlab"
    Requires-Dist: onedl-mmengine<1,>=0.10.12; extra == "onedl"
    Requires-Dist: onedl-mmcv<3,>=2.3.6; extra == "onedl"
    Requires-Dist: onedl-mmdetection<4,>=3.5.1; extra == "onedl"
    Requires-Dist: mmrazor<2,>=1.0; extra == "onedl"
    Requires-Dist: joblib; extra == "onedl"
    """


def write_tree(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    importlib.invalidate_caches()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Declares bounds, and puts a package of another version before the real one."""
    write_tree(tmp_path, {'ctkd_mm-0.0.0.dist-info/METADATA': BOUNDS})
    monkeypatch.syspath_prepend(str(tmp_path))
    hidden = {}
    faked = []

    def put(name, version, init=''):
        faked.append(name)
        for module in [m for m in sys.modules if m.split('.')[0] == name]:
            hidden[module] = sys.modules.pop(module)
        init = 'from .version import __version__\n' + init
        version = f'__version__ = {version!r}\n'
        files = {f'{name}/__init__.py': init, f'{name}/version.py': version}
        write_tree(tmp_path, files)

    yield put
    for module in [m for m in sys.modules if m.split('.')[0] in faked]:
        del sys.modules[module]
    sys.modules.update(hidden)


@pytest.fixture
def extra(request, monkeypatch):
    """Makes the named extra's MMEngine the only one that is installed."""
    installed = {'openmmlab': 'mmengine', 'onedl': 'onedl-mmengine'}[request.param]
    monkeypatch.setattr(stack, '_is_installed', lambda name: name == installed)
    return request.param


def test_thestack_that_runs_these_tests_is_accepted():
    stack.require_openmmlab()


def test_the_bounds_are_those_of_setup_py(root):
    try:
        metadata.requires('ctkd_mm')
    except metadata.PackageNotFoundError:
        pytest.skip('ctkd_mm is not installed')
    (extras,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse((root / 'setup.py').read_text()))
        if isinstance(node, ast.keyword) and node.arg == 'extras_require'
    )
    declared = {(r.name, r.specifier) for r in map(Requirement, extras[HERE])}
    found = {(r.name, r.specifier) for r in stack._requirements().values()}
    assert len(declared) >= 5
    assert declared <= found


# The extra would build mmcv in isolation, without its operators.
BUILD = "pip install --no-build-isolation --no-deps --no-cache-dir '{}'"


def command(name, extra, wanted):
    return BUILD.format(wanted) if name == 'mmcv' else f"pip install -e '.[{extra}]'"


@pytest.mark.parametrize(
    'extra, name, wanted',
    [
        ('openmmlab', 'mmengine', 'mmengine<1,>=0.10'),
        ('openmmlab', 'mmcv', 'mmcv<2.2,>=2.1.0'),
        ('openmmlab', 'mmdet', 'mmdet<4,>=3.3'),
        ('openmmlab', 'mmrazor', 'mmrazor<2,>=1.0'),
        ('openmmlab', 'joblib', 'joblib'),
        ('onedl', 'mmcv', 'onedl-mmcv<3,>=2.3.6'),
        ('onedl', 'mmdet', 'onedl-mmdetection<4,>=3.5.1'),
        ('onedl', 'mmrazor', 'mmrazor<2,>=1.0'),
    ],
    indirect=['extra'],
)
def test_a_missing_package_is_named_with_what_is_wanted(
    fake, extra, monkeypatch, name, wanted
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as info:
        stack.require(name)
    message = str(info.value)
    assert message.startswith(f'{name}: found not installed, ctkd_mm needs {wanted}.')
    assert command(name, extra, wanted) in message


@pytest.mark.parametrize(
    'extra, name, version, wanted',
    [
        ('openmmlab', 'mmcv', '2.2.0', 'mmcv<2.2,>=2.1.0'),
        ('openmmlab', 'mmcv', '2.3.6', 'mmcv<2.2,>=2.1.0'),
        ('openmmlab', 'mmdet', '3.2.0', 'mmdet<4,>=3.3'),
        ('openmmlab', 'mmrazor', '0.3.1', 'mmrazor<2,>=1.0'),
        ('onedl', 'mmcv', '2.1.0', 'onedl-mmcv<3,>=2.3.6'),
        ('onedl', 'mmdet', '3.3.0', 'onedl-mmdetection<4,>=3.5.1'),
    ],
    indirect=['extra'],
)
def test_a_version_outside_the_bounds_is_named_with_what_is_wanted(
    fake, extra, name, version, wanted
):
    fake(name, version)
    with pytest.raises(ImportError) as info:
        stack.require(name)
    message = str(info.value)
    assert message.startswith(f'{name}: found {version}, ctkd_mm needs {wanted}.')
    assert command(name, extra, wanted) in message


@pytest.mark.parametrize('name', ['mmengine', 'mmcv', 'mmdet'])
def test_a_package_that_bothstacks_brought_is_named(fake, tmp_path, name):
    fork = stack._FORKS[name]
    other = {'openmmlab': fork, 'onedl': name}[HERE]
    folder = f'{other.replace("-", "_")}-1.0.dist-info'
    text = f'Metadata-Version: 2.1\nName: {other}\nVersion: 1.0\n'
    write_tree(tmp_path, {f'{folder}/METADATA': text})
    with pytest.raises(ImportError, match=f'^{name} and {fork} are both') as info:
        stack.require(name)
    assert f'pip uninstall {name} {fork}' in str(info.value)


def test_a_package_inside_the_bounds_keeps_its_own_complaint(fake):
    fake('mmdet', INSIDE['mmdet'], "raise AssertionError('please install mmcv')")
    with pytest.raises(AssertionError, match='please install mmcv'):
        stack.require_openmmlab()


def test_a_broken_dependency_of_a_package_is_not_taken_for_the_package(fake):
    fake('mmdet', INSIDE['mmdet'], 'import no_such_dependency')
    with pytest.raises(ModuleNotFoundError, match="'no_such_dependency'"):
        stack.require_openmmlab()


def test_another_fork_with_the_import_name_passes_by_its_own_version(fake):
    fake('mmdet', '3.9.1+fork')
    stack.require_openmmlab()


def test_without_an_install_of_ctkd_mm_only_presence_counts(fake, monkeypatch):
    fake('mmdet', '2.0.0')

    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'requires', requires)
    stack.require_openmmlab()


def test_mmcv_without_ops_gets_its_own_error(fake):
    fake('mmcv', INSIDE['mmcv'])
    with pytest.raises(ImportError, match='mmcv._ext') as info:
        stack.require_openmmlab()
    assert '--no-build-isolation' in str(info.value)
