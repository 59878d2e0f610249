"""Curriculum Temperature for Knowledge Distillation in object detection.

Importing this package repairs MMRazor and MMEngine for the running PyTorch. The names
below need torch and MMEngine only and are imported on first use. The distiller needs
the whole OpenMMLab stack: :mod:`ctkd_mm.models.algorithms.roi_logit_distill`.
"""

from ctkd_mm.compat import patches
from ctkd_mm.utils.lazy import face

patches.apply()

__version__ = '0.1.0'

__getattr__, __all__ = face(
    __name__,
    {
        'analysis.doctor.doctor_hook': ['TemperatureDoctorHook'],
        'engine.hooks.curriculum_hook': ['CurriculumHook', 'TemperatureScheduleHook'],
        'engine.hooks.temperature_log_hook': ['TemperatureLogHook'],
        'models.losses.bernoulli_loss': ['BernoulliCTKDLoss', 'bernoulli_kl_div'],
        'models.losses.dkd_loss': ['DKDLoss', 'dkd_kl_div'],
        'models.losses.kd_loss': ['CTKDLoss', 'kd_kl_div'],
        'models.losses.zscore_loss': ['NormKDLoss', 'ZScoreLoss'],
        'models.temperatures': [
            'ConstantTemperature',
            'CosineTemperature',
            'GlobalTemperature',
            'GradientReversal',
            'InstanceTemperature',
            'LinearTemperature',
            'SharpnessTemperature',
            'SpreadTemperature',
            'TeacherTemperature',
            'cosine_curriculum',
            'grad_reverse',
            'set_lambda',
            'set_progress',
        ],
    },
)
