"""Distillation losses of class logits."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(
    __name__,
    kd_loss='CTKDLoss kd_kl_div',
    dkd_loss='DKDLoss dkd_kl_div',
    bernoulli_loss='BernoulliCTKDLoss bernoulli_kl_div',
    zscore_loss='NormKDLoss ZScoreLoss',
    with_temperature='WithTemperature',
)
