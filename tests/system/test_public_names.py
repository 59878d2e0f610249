"""The names that users write: they stay, whatever module they move to."""

from __future__ import annotations

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
