_base_ = [
    '../_base_/pairs/faster-rcnn_r18-half-to-r18-sixteenth_fpn_bccd.py',
    '../_base_/methods/ctkd-zscore.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/schedule_bccd.py',
    '../_base_/demo_runtime.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
optim_wrapper = dict(paramwise_cfg=_base_.pop('paramwise_cfg'))
