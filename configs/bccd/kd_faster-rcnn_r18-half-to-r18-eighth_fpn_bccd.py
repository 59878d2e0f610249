_base_ = [
    '../_base_/pairs/faster-rcnn_r18-half-to-r18-eighth_fpn_bccd.py',
    '../_base_/methods/kd.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/schedule_bccd.py',
    '../_base_/demo_runtime.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
