# Teacher: MMDetection's model zoo, 40.3 box AP.
_base_ = '../models/faster-rcnn_mobilenetv2_fpn.py'
model = dict(
    _delete_=True,
    type='ctkd_mm.RoILogitDistill',
    architecture=_base_.model,
    teacher='mmdet::faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r50_fpn_mstrain_3x_coco/faster_rcnn_r50_fpn_mstrain_3x_coco_20210524_110822-e10bd31c.pth',
)
