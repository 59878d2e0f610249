# The demo's student, for three classes.
_base_ = './faster-rcnn_r18-eighth_fpn_digits.py'
model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
