_base_ = [
    '../_base_/models/faster-rcnn_r18-half_fpn_digits.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/schedule_demo.py',
    '../_base_/demo_runtime.py',
]
