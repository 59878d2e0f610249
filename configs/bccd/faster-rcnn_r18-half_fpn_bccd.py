_base_ = [
    '../_base_/models/faster-rcnn_r18-half_fpn_bccd.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/schedule_demo.py',
    '../_base_/demo_runtime.py',
]
train_cfg = dict(max_epochs=60, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', begin=0, end=60, T_max=60, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=4)
