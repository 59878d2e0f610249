"""The floors of the package: a module imports only what stands below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ctkd_mm

PACKAGE = Path(ctkd_mm.__file__).parent
MATHEMATICS = {'torch', 'mmengine', 'numpy'}
STACK = MATHEMATICS | {'mmcv', 'mmdet', 'mmrazor'}
# Module: its floor, and the packages it may import beside the standard library.
FLOORS = {
    '_stack': (0, {'mmengine', 'packaging'}),
    '_compat': (1, MATHEMATICS | {'mmcv'}),
    'registry': (1, {'mmengine'}),
    'gradient_reversal': (1, {'torch'}),
    'demo_data': (1, {'numpy', 'cv2', 'sklearn'}),
    'run_log': (1, {'mmengine'}),
    'plot': (2, {'matplotlib'}),
    'doctor_rules': (1, set()),
    'doctor': (3, set()),  # judges by the defaults of temperature
    'doctor_hook': (4, MATHEMATICS),
    'extract': (3, {'mmengine'}),  # writes as checkpoint does
    'temperature': (2, MATHEMATICS),
    'policy': (1, {'torch'}),
    'temperature_log': (2, MATHEMATICS),
    'loss': (2, MATHEMATICS),
    'zscore': (3, MATHEMATICS),  # losses around those of loss
    'policies': (4, MATHEMATICS),  # spread from zscore
    'schedule': (5, MATHEMATICS),  # policies on the curriculum's ramp
    'ld_head': (2, STACK),
    'adapter': (5, STACK),  # a temperature for MMDetection's losses
    'bernoulli': (3, MATHEMATICS),  # a loss as those of loss
    'dkd': (3, MATHEMATICS),  # extends loss
    'curriculum': (3, MATHEMATICS),  # logs as temperature_log does
    'reseed': (2, MATHEMATICS),
    'resume': (3, MATHEMATICS),  # loops over what reseed seeds
    'checkpoint': (2, MATHEMATICS),
    'preemption': (3, MATHEMATICS),  # saves as checkpoint does
    'history': (2, MATHEMATICS),
    'amp': (2, STACK),
    'param_groups': (2, MATHEMATICS),
    'fast_coco_metric': (2, {'mmdet', 'pycocotools', 'faster_coco_eval'}),
    'finite': (3, MATHEMATICS),  # reports what temperature computed
    'listing': (0, {'mmengine'}),
    'ranges': (0, set()),
    'annotation_check': (2, MATHEMATICS),
    'coco_subset': (3, set()),
    'dataset_check': (3, STACK),
    'config_check': (4, MATHEMATICS),
    'key_check': (4, {'mmengine'}),
    'explain': (3, MATHEMATICS),
    'evaluator_check': (3, STACK),
    'start_check': (2, MATHEMATICS),
    'resume_check': (4, {'mmengine'}),
    'teacher': (2, MATHEMATICS),
    'fast_teacher': (2, MATHEMATICS | {'mmcv'}),
    'preprocess': (2, MATHEMATICS),
    'stock_teacher': (3, MATHEMATICS),
    'launch': (2, MATHEMATICS),
    'two_stage': (1, MATHEMATICS),
    'one_stage': (1, MATHEMATICS),
    'teacher_check': (2, MATHEMATICS),
    'distiller_config': (2, STACK),
    'loss_check': (4, STACK),
    'logit_distill': (3, STACK),
    'distill': (5, STACK),
    'dense_distill': (5, STACK),
    'preflight': (5, STACK),
    'pair_leaf': (1, {'mmengine'}),
    'zoo': (2, MATHEMATICS | {'mmdet'}),
    'new_pair': (5, STACK),
    'check': (6, STACK),
    'demo': (6, STACK | {'cv2', 'pycocotools'}),
    'tau_curve': (1, set()),
    'seen_logits': (4, {'torch'}),
    'first_steps': (7, MATHEMATICS),  # a start as check's
    'suggest': (8, {'mmengine', 'matplotlib'}),
    'report_runs': (2, {'mmengine'}),
    'report_figures': (3, {'matplotlib'}),
    'report_boxes': (1, STACK | {'cv2'}),
    'report_detections': (4, STACK),
    'report': (6, STACK | {'jinja2'}),
    'cli': (9, STACK),
    'cli_runs': (10, set()),
}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Names of our modules and of foreign packages that a file imports anywhere."""
    ours, foreign = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            ours |= {node.module or alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            foreign.add(node.module.split('.')[0])
    return ours, foreign - set(sys.stdlib_module_names)


def test_every_module_has_its_floor():
    names = {path.stem for path in PACKAGE.glob('*.py')} - {'__init__'}
    assert names == set(FLOORS)


@pytest.mark.parametrize('name', FLOORS)
def test_a_module_imports_downwards_only(name):
    floor, allowed = FLOORS[name]
    ours, foreign = imports(PACKAGE / f'{name}.py')
    assert foreign <= allowed
    assert all(FLOORS[other][0] < floor for other in ours)


def test_the_tools_import_the_cli_alone():
    for path in (PACKAGE.parent / 'tools').glob('*.py'):
        assert imports(path) == (set(), {'ctkd_mm'}), path
        assert len(path.read_text().splitlines()) <= 10


def test_the_package_itself_does_not_import_the_distiller():
    ours, _ = imports(PACKAGE / '__init__.py')
    assert 'distill' not in ours


def test_a_loss_finds_its_temperature_by_name_without_mmrazor():
    code = """
import sys
sys.modules['mmrazor'] = None
from ctkd_mm import CTKDLoss
loss = CTKDLoss(dict(type='ctkd_mm.GlobalTemperature'))
assert loss.temperature.tau_range == 20
assert 'mmdet' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', code], check=True)
