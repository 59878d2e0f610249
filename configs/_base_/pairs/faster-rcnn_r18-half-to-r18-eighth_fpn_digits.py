# Teacher: trained by the demo itself.
_base_ = '../models/faster-rcnn_r18-eighth_fpn_digits.py'
model = dict(
    _delete_=True,
    type='ctkd_mm.RoILogitDistill',
    architecture=_base_.model,
    teacher='ctkd_mm::demo/faster-rcnn_r18-half_fpn_digits.py',
    teacher_ckpt='work_dirs/demo/teacher/epoch_6.pth',
)
