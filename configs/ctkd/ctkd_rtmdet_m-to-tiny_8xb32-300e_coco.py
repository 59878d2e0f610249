_base_ = [
    '../_base_/pairs/rtmdet_m-to-tiny.py',
    '../_base_/methods/ctkd-dense.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
# Ours, not tuned on COCO: AdamW's steps are as long as the rate, whatever the gradient,
# and the student's rate is high enough to cross the range of tau within a few epochs.
_base_.paramwise_cfg.custom_keys['loss_kd.temperature'].lr_mult = 1
optim_wrapper = dict(paramwise_cfg=_base_.pop('paramwise_cfg'))
custom_hooks = [*_base_.pop('pair_hooks'), *_base_.custom_hooks]
