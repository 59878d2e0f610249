# Teacher: trained with configs/bccd/faster-rcnn_r18-half_fpn_bccd.py.
_base_ = '../models/faster-rcnn_r18-eighth_fpn_bccd.py'
model = dict(
    _delete_=True,
    type='ctkd_mm.RoILogitDistill',
    architecture=_base_.model,
    teacher='ctkd_mm::bccd/faster-rcnn_r18-half_fpn_bccd.py',
    teacher_ckpt='work_dirs/bccd/teacher/epoch_60.pth',
)
