_base_ = [
    '../_base_/pairs/cascade-mask-rcnn_x101-to-faster-rcnn_r50_fpn.py',
    '../_base_/methods/kd.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/runtime.py',
]
model = dict(loss_kd=_base_.pop('loss_kd'))
