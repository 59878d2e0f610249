"""Temperatures: learned, constant, scheduled; the reversal and the ramps."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(
    __name__,
    base='Temperature find_temperatures',
    learned='GlobalTemperature InstanceTemperature LearnedTemperature',
    fixed="""
            ConstantTemperature SharpnessTemperature SpreadTemperature
            TeacherTemperature
        """,
    scheduled='CosineTemperature LinearTemperature set_progress',
    ramps='cosine_curriculum progress',
    gradient_reversal='GradientReversal grad_reverse set_lambda',
)
