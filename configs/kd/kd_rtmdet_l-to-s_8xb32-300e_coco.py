_base_ = [
    '../_base_/pairs/rtmdet_l-to-s.py',
    '../_base_/methods/kd-dense.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
custom_hooks = _base_.pop('pair_hooks')
