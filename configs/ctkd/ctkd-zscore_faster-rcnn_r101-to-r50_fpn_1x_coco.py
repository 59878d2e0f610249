_base_ = [
    '../_base_/pairs/faster-rcnn_r101-to-r50_fpn.py',
    '../_base_/methods/ctkd-zscore.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/runtime.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
optim_wrapper = dict(paramwise_cfg=_base_.pop('paramwise_cfg'))
