# Teacher: mmpretrain's model zoo, 73.62 top-1 on ImageNet.
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../distillers/classifier_logits.py',
]
model = dict(
    _delete_=True,
    type='mmrazor.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    teacher_ckpt='https://download.openmmlab.com/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth',
    distiller=_base_.pop('distiller'),
)
