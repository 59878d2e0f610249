_base_ = [
    '../_base_/pairs/gfl_r101-to-r50_fpn.py',
    '../_base_/methods/ctkd-dense.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/runtime.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
# The rate is MMDetection's for GFL.
optim_wrapper = dict(optimizer=dict(lr=0.01), paramwise_cfg=_base_.pop('paramwise_cfg'))
