# Teacher: MMDetection's model zoo, 49.1 box AP. Data, schedule, EMA and the change of
# the pipeline are those of the student's own recipe.
_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../hooks.py']
model = dict(
    _delete_=True,
    type='ctkd_mm.DenseLogitDistill',
    architecture=_base_.model,
    teacher='mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth',
)
train_cfg = dict(type='ctkd_mm.ResumableEpochBasedTrainLoop')
optim_wrapper = dict(constructor='ctkd_mm.MergedOptimWrapperConstructor')
# For --auto-scale-lr: the batch of 8 GPUs with 32 images each (MMDetection has another
# schedule's, 16), and the end of the cosine as a share of the rate.
auto_scale_lr = dict(base_batch_size=256)
_base_.param_scheduler[1].update(eta_min=None, eta_min_ratio=0.05)
default_hooks = dict(
    **_base_.pop('ctkd_hooks'),
    # The distillation ends with the mosaic, as in MMYOLO's distillation of RTMDet.
    stop=dict(
        type='mmrazor.StopDistillHook', stop_epoch=_base_.custom_hooks[1].switch_epoch
    ),
)
pair_hooks = _base_.pop('custom_hooks')
