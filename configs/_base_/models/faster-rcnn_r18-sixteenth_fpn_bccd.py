# An eighth of the teacher's backbone and neck, a sixteenth of its box head.
_base_ = './faster-rcnn_r18-half_fpn_bccd.py'
model = dict(
    backbone=dict(base_channels=4),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16),
    ),
)
