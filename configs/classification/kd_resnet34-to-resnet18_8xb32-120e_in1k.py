_base_ = [
    '../_base_/pairs/resnet34-to-resnet18.py',
    '../_base_/methods/kd.py',
    '../_base_/datasets/imagenet_classification.py',
    '../_base_/schedules/schedule_classification_120e.py',
    '../_base_/classification_runtime.py',
]
_base_.loss_kd.tau = 4  # as in the paper
model = dict(distiller=dict(distill_losses=dict(loss_kd=_base_.pop('loss_kd'))))
