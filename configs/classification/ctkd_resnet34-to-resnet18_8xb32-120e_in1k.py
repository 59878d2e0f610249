_base_ = [
    '../_base_/pairs/resnet34-to-resnet18.py',
    '../_base_/methods/ctkd-classification.py',
    '../_base_/datasets/imagenet_classification.py',
    '../_base_/schedules/schedule_classification_120e.py',
    '../_base_/classification_runtime.py',
]
model = dict(distiller=dict(distill_losses=dict(loss_kd=_base_.pop('loss_kd'))))
