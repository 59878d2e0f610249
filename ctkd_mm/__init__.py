"""Curriculum Temperature for Knowledge Distillation in object detection.

Importing this package repairs MMRazor and MMEngine for the running PyTorch and
gives the parts that need only torch and MMEngine. The distiller itself needs the
whole OpenMMLab stack and lives in :mod:`ctkd_mm.distill`.
"""

from . import _compat

_compat.apply()

from .bernoulli import BernoulliCTKDLoss, bernoulli_kl_div  # noqa: E402
from .curriculum import CurriculumHook, cosine_curriculum  # noqa: E402
from .dkd import DKDLoss, dkd_kl_div  # noqa: E402
from .doctor_hook import TemperatureDoctorHook  # noqa: E402
from .gradient_reversal import (  # noqa: E402
    GradientReversal,
    grad_reverse,
    set_lambda,
)
from .loss import CTKDLoss, kd_kl_div  # noqa: E402
from .policies import (  # noqa: E402
    ConstantTemperature,
    SharpnessTemperature,
    SpreadTemperature,
    TeacherTemperature,
)
from .schedule import (  # noqa: E402
    CosineTemperature,
    LinearTemperature,
    TemperatureScheduleHook,
    set_progress,
)
from .temperature import GlobalTemperature, InstanceTemperature  # noqa: E402
from .temperature_log import TemperatureLogHook  # noqa: E402
from .zscore import NormKDLoss, ZScoreLoss  # noqa: E402

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
