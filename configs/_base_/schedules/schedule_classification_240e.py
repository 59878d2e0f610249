# The paper's on CIFAR-100, as RepDistiller's and mdistiller's.
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'
train_cfg = dict(
    _delete_=True, type='ctkd_mm.ResumableEpochBasedTrainLoop', max_epochs=240
)
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=5e-4))
param_scheduler = dict(milestones=[150, 180, 210])
auto_scale_lr = dict(base_batch_size=64, enable=False)
