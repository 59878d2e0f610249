# Teacher: mmpretrain's model zoo, 79.90 top-1 on CIFAR-100. The paper's pairs for it
# (ResNet-56 to 20 and others) have no checkpoint there.
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    '../distillers/classifier_logits.py',
]
_base_.model.head.num_classes = 100
model = dict(
    _delete_=True,
    type='mmrazor.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb16_cifar100.py'),
    teacher_ckpt='https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_b16x8_cifar100_20210528-67b58a1b.pth',
    distiller=_base_.pop('distiller'),
)
