_base_ = [
    '../_base_/pairs/resnet50-to-resnet18_cifar100.py',
    '../_base_/methods/ctkd-classification.py',
    '../_base_/datasets/cifar100_classification.py',
    '../_base_/schedules/schedule_classification_240e.py',
    '../_base_/classification_runtime.py',
]
_base_.loss_kd.loss_weight = 0.9
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.1))),
    distiller=dict(distill_losses=dict(loss_kd=_base_.pop('loss_kd'))),
)
custom_hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=10),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
]
