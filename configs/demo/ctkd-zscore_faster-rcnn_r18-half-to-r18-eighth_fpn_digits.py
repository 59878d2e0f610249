_base_ = [
    '../_base_/pairs/faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py',
    '../_base_/methods/ctkd-zscore.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/schedule_demo.py',
    '../_base_/demo_runtime.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
optim_wrapper = dict(paramwise_cfg=_base_.pop('paramwise_cfg'))
