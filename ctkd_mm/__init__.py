"""Curriculum Temperature for Knowledge Distillation in object detection.

Importing this package repairs MMRazor and MMEngine for the running PyTorch and
gives the parts that need only torch and MMEngine. The distiller itself needs the
whole OpenMMLab stack and lives in :mod:`ctkd_mm.models.algorithms.roi_logit_distill`.
"""

from ctkd_mm.compat import patches as _compat

_compat.apply()

from ctkd_mm.analysis.doctor.doctor_hook import TemperatureDoctorHook
from ctkd_mm.engine.hooks.curriculum_hook import (
    CurriculumHook,
    TemperatureScheduleHook,
)
from ctkd_mm.engine.hooks.temperature_log_hook import TemperatureLogHook
from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss, bernoulli_kl_div
from ctkd_mm.models.losses.dkd_loss import DKDLoss, dkd_kl_div
from ctkd_mm.models.losses.kd_loss import CTKDLoss, kd_kl_div
from ctkd_mm.models.losses.zscore_loss import NormKDLoss, ZScoreLoss
from ctkd_mm.models.temperatures.fixed import (
    ConstantTemperature,
    SharpnessTemperature,
    SpreadTemperature,
    TeacherTemperature,
)
from ctkd_mm.models.temperatures.gradient_reversal import (
    GradientReversal,
    grad_reverse,
    set_lambda,
)
from ctkd_mm.models.temperatures.learned import GlobalTemperature, InstanceTemperature
from ctkd_mm.models.temperatures.ramps import cosine_curriculum
from ctkd_mm.models.temperatures.scheduled import (
    CosineTemperature,
    LinearTemperature,
    set_progress,
)

__version__ = '0.1.0'

__all__ = [
    'BernoulliCTKDLoss',
    'CTKDLoss',
    'ConstantTemperature',
    'CosineTemperature',
    'CurriculumHook',
    'DKDLoss',
    'GlobalTemperature',
    'GradientReversal',
    'InstanceTemperature',
    'LinearTemperature',
    'NormKDLoss',
    'SharpnessTemperature',
    'SpreadTemperature',
    'TeacherTemperature',
    'TemperatureDoctorHook',
    'TemperatureLogHook',
    'TemperatureScheduleHook',
    'ZScoreLoss',
    'bernoulli_kl_div',
    'cosine_curriculum',
    'dkd_kl_div',
    'grad_reverse',
    'kd_kl_div',
    'set_lambda',
    'set_progress',
]
