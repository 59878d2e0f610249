"""Temperatures: learned, constant, scheduled; the reversal and the ramps."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(
    __name__,
    {
        'base': ('Policy', 'find_temperatures'),
        'learned': ('GlobalTemperature', 'InstanceTemperature', 'Temperature'),
        'fixed': (
            'ConstantTemperature',
            'SharpnessTemperature',
            'SpreadTemperature',
            'TeacherTemperature',
        ),
        'scheduled': ('CosineTemperature', 'LinearTemperature', 'set_progress'),
        'ramps': ('cosine_curriculum', 'progress'),
        'gradient_reversal': ('GradientReversal', 'grad_reverse', 'set_lambda'),
    },
)
