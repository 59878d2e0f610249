"""Curriculum Temperature for Knowledge Distillation in object detection.

Importing this package repairs MMRazor and MMEngine for the running PyTorch and
gives the parts that need only torch and MMEngine. The distiller itself needs the
whole OpenMMLab stack and lives in :mod:`ctkd_mm.distill`.
"""

from . import _compat

_compat.apply()

from .curriculum import CurriculumHook, cosine_curriculum  # noqa: E402
from .gradient_reversal import (  # noqa: E402
    GradientReversal,
    grad_reverse,
    set_lambda,
)
from .loss import CTKDLoss, kd_kl_div  # noqa: E402
from .temperature import GlobalTemperature, InstanceTemperature  # noqa: E402

__version__ = '0.1.0'

__all__ = [
    'CTKDLoss',
    'CurriculumHook',
    'GlobalTemperature',
    'GradientReversal',
    'InstanceTemperature',
    'cosine_curriculum',
    'grad_reverse',
    'kd_kl_div',
    'set_lambda',
]
