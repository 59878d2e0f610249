_base_ = [
    '../_base_/pairs/gfl_r101-to-r18_fpn_ld.py',
    '../_base_/methods/ctkd-ld.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/runtime.py',
]
model = dict(
    bbox_head=dict(
        type='ctkd_mm.LearnedLDHead',
        loss_ld=dict(_delete_=True, **_base_.pop('loss_ld')),
    )
)
optim_wrapper = dict(
    optimizer=dict(lr=0.01),  # as MMDetection's
    paramwise_cfg=_base_.pop('paramwise_cfg'),
)
