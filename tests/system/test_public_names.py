"""The names that users write: they stay, whatever module they move to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import ctkd_mm
from ctkd_mm import registry

# from ctkd_mm import ...
PUBLIC = """
BernoulliCTKDLoss CTKDLoss ConstantTemperature CosineTemperature CurriculumHook DKDLoss
GlobalTemperature GradientReversal InstanceTemperature LinearTemperature NormKDLoss
SharpnessTemperature SpreadTemperature TeacherTemperature TemperatureDoctorHook
TemperatureLogHook TemperatureScheduleHook ZScoreLoss bernoulli_kl_div
cosine_curriculum dkd_kl_div grad_reverse kd_kl_div set_lambda set_progress
"""
# type='ctkd_mm.X'
REGISTERED = dict(
    MODELS="""
    BernoulliCTKDLoss CTKDLoss ConstantTemperature CosineTemperature DKDLoss
    DenseLogitDistill DenseRows GlobalTemperature InstanceTemperature LearnedLDHead
    LinearTemperature NormKDLoss RoILogitDistill SharpnessTemperature SpreadTemperature
    TeacherTemperature WithTemperature ZScoreLoss
    """,
    HOOKS="""
    AtomicCheckpointHook CurriculumHook FiniteHook HistoryHook PreemptionHook
    PreflightHook ReseedHook TemperatureDoctorHook TemperatureLogHook
    TemperatureScheduleHook
    """,
    LOOPS='ResumableEpochBasedTrainLoop ResumableIterBasedTrainLoop',
    OPTIM_WRAPPERS='AmpOptimWrapper CPUAmpOptimWrapper',
    METRICS='FastCocoMetric',
    OPTIM_WRAPPER_CONSTRUCTORS='MergedOptimWrapperConstructor',
)


def test_the_public_names_stay():
    assert sorted(ctkd_mm.__all__) == sorted(PUBLIC.split())
    assert len(ctkd_mm.__all__) == 25
    for name in ctkd_mm.__all__:
        assert getattr(ctkd_mm, name).__name__ == name


@pytest.mark.parametrize('kind', REGISTERED)
def test_the_registered_names_stay(kind):
    found = getattr(registry, kind)
    found.import_from_location()
    # Not what other tests may have registered beside them.
    ours = [n for n, o in found.module_dict.items() if o.__module__[:8] == 'ctkd_mm.']
    assert sorted(ours) == sorted(REGISTERED[kind].split())


def test_there_are_34_registered_names():
    assert sum(len(names.split()) for names in REGISTERED.values()) == 34


# What a user writes, with a mistake at the end.
USER = """
from pathlib import Path

import torch
from torch import Tensor

import ctkd_mm
from ctkd_mm import CTKDLoss, GlobalTemperature, cosine_curriculum, set_lambda
from ctkd_mm.analysis import diagnose
from ctkd_mm.apis import extract_student
from ctkd_mm.models import RoILogitDistill

version: str = ctkd_mm.__version__
loss_kd = CTKDLoss(GlobalTemperature(tau_start=2.0))
layers: int = set_lambda(loss_kd, cosine_curriculum(0, end=5))
tau: Tensor = loss_kd.temperature(torch.zeros(1, 2), torch.zeros(1, 2))
verdicts: list[str] = [found.verdict for found in diagnose([], 1.0, 20.0)]
student: Path = extract_student('epoch_12.pth')
RoILogitDistill.run_teacher
CTKDLoss(GlobalTemperature(), loss_weight='high')
"""


@pytest.mark.process
def test_a_type_checker_knows_the_public_names(root, tmp_path):
    pytest.importorskip('mypy', reason='of the extra test')
    (tmp_path / 'user.py').write_text(USER)
    options = ['--ignore-missing-imports', '--follow-imports=silent']
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', *options, 'user.py'],
        cwd=tmp_path,
        env={**os.environ, 'MYPYPATH': str(root)},
        text=True,
        capture_output=True,
    )
    line = USER.count('\n')
    *_, found, summary = done.stdout.splitlines()
    assert found.startswith(f'user.py:{line}: error: Argument "loss_weight"')
    assert summary.startswith('Found 1 error in 1 file'), done.stdout
