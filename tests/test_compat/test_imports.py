"""MMRazor as a user meets it, in another process too; mmcv's operators."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, RoIAlign
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

# A module imported twice would register twice, or leave its old classes behind.
IMPORT_ALL_OF_MMRAZOR = """
import sys, ctkd_mm
import mmrazor.models, mmrazor.engine, mmrazor.datasets
import mmrazor.implementations, mmrazor.structures
import mmrazor.registry
from mmrazor.models.algorithms import BaseAlgorithm

classes = [
    cls
    for registry in vars(mmrazor.registry).values()
    for cls in getattr(registry, 'module_dict', {}).values()
]
assert len(classes) > 200, len(classes)
for cls in classes:
    assert getattr(sys.modules[cls.__module__], cls.__name__) is cls, cls
assert 'ctkd_mm' in BaseAlgorithm.set_module_inplace_false.__module__
"""
FAILED_BEFORE = """
for name in ('models', 'engine', 'structures', 'models'):
    try:
        __import__('mmrazor.' + name)
    except (ImportError, AssertionError):
        pass
"""


def run_python(code: str, root: Path, *path: Path) -> None:
    """Run code in an interpreter that finds ``path`` first, then ctkd_mm."""
    folders = [*map(str, path), str(root), os.environ.get('PYTHONPATH', '')]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(folders)}
    line = [sys.executable, '-W', 'ignore', '-c', code]
    subprocess.run(line, env=env, timeout=120, check=True)


@pytest.mark.process
def test_all_of_mmrazor_imports_after_ctkd_mm_even_if_it_failed_before(root):
    run_python(FAILED_BEFORE + IMPORT_ALL_OF_MMRAZOR, root)


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


CHECK = """
import mmcv
from mmengine.utils import digit_version
assert digit_version(mmcv.__version__) <= digit_version('2.1.0')
"""
OTHERS = """
import ctkd_mm, mmcv, mmrazor.structures
from mmrazor.structures.quantization import qconfig
assert mmcv.__version__ == '2.3.6'
assert mmrazor.structures.QConfigHandler == qconfig.QConfigHandler == 'the real one'
try:
    import mmrazor.bad
except ImportError as error:
    assert str(error) == 'something else'
"""


# As pip's editable install of a package in another folder.
EDITABLE = """
import sys
from importlib.machinery import PathFinder

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path or [{!r}])

sys.meta_path.insert(0, Editable)
"""


@pytest.mark.process
@pytest.mark.parametrize('editable', [False, True])
def test_another_mmcv_passes_mmrazors_check_and_another_mmrazor_is_untouched(
    root, tmp_path, editable
):
    quantization = 'mmrazor/structures/quantization'
    write_tree(
        tmp_path,
        {
            'mmcv/__init__.py': "__version__ = '2.3.6'",
            'mmrazor/__init__.py': CHECK,
            'mmrazor/bad.py': "raise ImportError('something else')",
            'mmrazor/structures/__init__.py': 'from .quantization import *',
            f'{quantization}/__init__.py': 'from .qconfig import *',
            f'{quantization}/qconfig.py': "QConfigHandler = 'the real one'",
        },
    )
    if editable:
        run_python(EDITABLE.format(str(tmp_path)) + OTHERS, root)
    else:
        run_python(OTHERS, root, tmp_path)


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        value = self.net(self.norm(inputs))
        return dict(loss=value.mean()) if mode == 'loss' else value


def test_mmrazors_own_distiller_records_what_a_layer_gave_before_an_inplace_relu():
    importlib.import_module('mmrazor.models')
    recorders = dict(norm=dict(type='mmrazor.ModuleOutputs', source='norm'))
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmrazor.SingleTeacherDistill',
            architecture=Net(),
            teacher=Net(),
            distiller=dict(
                type='mmrazor.ConfigurableDistiller',
                student_recorders=recorders,
                teacher_recorders=recorders,
                distill_losses=dict(loss=dict(type='mmrazor.L2Loss')),
                loss_forward_mappings=dict(
                    loss=dict(
                        s_feature=dict(from_student=True, recorder='norm'),
                        t_feature=dict(from_student=False, recorder='norm'),
                    )
                ),
            ),
        )
    )
    inputs = torch.randn(8, 4)
    model(inputs, mode='loss')
    normalised = (inputs - inputs.mean(0)) / inputs.std(0, correction=0)
    recorded = model.distiller.student_recorders.get_recorder('norm').data_buffer
    torch.testing.assert_close(recorded[0], normalised, rtol=1e-3, atol=1e-3)
    recorded = model.distiller.teacher_recorders.get_recorder('norm').data_buffer
    assert recorded[0].min() < 0


ROIS = torch.tensor([[0, 2.2, 3, 15, 14], [1, 1, 1, 9, 10.5]])
OPERATORS = dict(
    roi_align=lambda: (RoIAlign(4, 0.5, aligned=True), [ROIS]),
    deform_conv=lambda: (DeformConv2d(8, 4, 3, padding=1), [offsets(18)]),
    modulated_deform_conv=lambda: (
        ModulatedDeformConv2d(8, 4, 3, padding=1),
        [offsets(18), offsets(9).sigmoid()],
    ),
)


def offsets(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, 12, 14, generator=generator)


def run(operator: nn.Module, features: Tensor, *args: Tensor) -> list[Tensor]:
    """The output, and the gradients of the features and the weights."""
    features = features.detach().requires_grad_()
    output = operator(features, *args)
    wanted = [features, *operator.parameters()]
    return [output, *torch.autograd.grad(output.square().sum(), wanted)]


@pytest.fixture(params=OPERATORS)
def operator(request):
    torch.manual_seed(0)
    return OPERATORS[request.param]()


def test_channels_last_memory_gives_the_same_bits(operator):
    operator, args = operator
    features = torch.randn(2, 8, 12, 14)
    other = features.to(memory_format=torch.channels_last)
    want = run(operator, features, *args)
    for a, b in zip(run(operator, other, *args), want):
        assert torch.equal(a, b)


def test_bfloat16_computes_in_float32(operator):
    operator, args = operator
    features = torch.randn(2, 8, 12, 14).bfloat16()
    args = [arg.bfloat16() for arg in args]
    want = run(operator, features.float(), *[arg.float() for arg in args])
    output, gradient, *others = run(operator, features, *args)
    assert torch.equal(output, want[0])
    assert torch.equal(gradient, want[1].bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(others, want[2:]))
