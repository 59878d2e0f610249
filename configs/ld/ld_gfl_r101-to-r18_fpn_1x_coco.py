_base_ = [
    '../_base_/pairs/gfl_r101-to-r18_fpn_ld.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.01))  # as MMDetection's
