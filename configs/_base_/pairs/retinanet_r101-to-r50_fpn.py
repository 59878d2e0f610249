# Teacher: MMDetection's model zoo, 41.0 box AP.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    _delete_=True,
    type='ctkd_mm.DenseLogitDistill',
    architecture=_base_.model,
    teacher='mmdet::retinanet/retinanet_r101_fpn_ms-640-800-3x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_mstrain_3x_coco/retinanet_r101_fpn_mstrain_3x_coco_20210720_214650-7ee888e0.pth',
)
