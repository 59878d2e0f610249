"""Distillers, losses, temperatures, teachers and heads."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(
    __name__,
    {
        'algorithms.roi_logit_distill': ('RoILogitDistill',),
        'algorithms.dense_logit_distill': ('DenseLogitDistill',),
        'algorithms.logit_distill': ('LogitDistill',),
        'heads.ld_head': ('LearnedLDHead',),
        'losses.kd_loss': ('CTKDLoss', 'kd_kl_div'),
        'losses.dkd_loss': ('DKDLoss', 'dkd_kl_div'),
        'losses.bernoulli_loss': ('BernoulliCTKDLoss', 'bernoulli_kl_div'),
        'losses.zscore_loss': ('NormKDLoss', 'ZScoreLoss'),
        'losses.with_temperature': ('WithTemperature',),
        'teachers.preprocessor': ('PairDataPreprocessor',),
        'temperatures.base': ('Temperature', 'find_temperatures'),
        'temperatures.learned': (
            'GlobalTemperature',
            'InstanceTemperature',
            'LearnedTemperature',
        ),
        'temperatures.fixed': (
            'ConstantTemperature',
            'SharpnessTemperature',
            'SpreadTemperature',
            'TeacherTemperature',
        ),
        'temperatures.scheduled': (
            'CosineTemperature',
            'LinearTemperature',
            'set_progress',
        ),
        'temperatures.ramps': ('cosine_curriculum', 'progress'),
        'temperatures.gradient_reversal': (
            'GradientReversal',
            'grad_reverse',
            'set_lambda',
        ),
    },
)
