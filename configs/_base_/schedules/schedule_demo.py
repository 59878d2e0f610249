# Minutes on a CPU, from scratch: AdamW with warm-up and cosine decay.
train_cfg = dict(
    type='ctkd_mm.ResumableEpochBasedTrainLoop', max_epochs=6, val_interval=6
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=6, T_max=6, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='ctkd_mm.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)  # for --auto-scale-lr
