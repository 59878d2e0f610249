# The paper's on ImageNet: mmpretrain's 100 epochs, 20 more at the last rate.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'
train_cfg = dict(
    _delete_=True, type='ctkd_mm.ResumableEpochBasedTrainLoop', max_epochs=120
)
auto_scale_lr = dict(enable=False)  # for --auto-scale-lr
