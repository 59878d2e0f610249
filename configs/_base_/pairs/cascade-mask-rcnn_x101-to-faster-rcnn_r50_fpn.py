# The pair of DIST and MasKD: the first stage of a cascade teaches. Teacher:
# MMDetection's model zoo, 45.6 box AP.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    _delete_=True,
    type='ctkd_mm.RoILogitDistill',
    architecture=_base_.model,
    teacher='mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_mask_rcnn_x101_64x4d_fpn_20e_coco/cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a.pth',
    teacher_stage=0,
)
