# NormKD: for each RoI and model a temperature in the proportion of its logits' spread.
# The gradient grows as 1 / sigma, large while the student's box head is fresh: consider
# optim_wrapper.clip_grad.
loss_kd = dict(
    type='ctkd_mm.NormKDLoss',
    loss=dict(
        type='ctkd_mm.CTKDLoss',
        # T_norm and the weight (as much as the student's own loss) of the authors'
        # ImageNet config; CIFAR-100's are 2 and 9.
        temperature=dict(type='ctkd_mm.SpreadTemperature', scale=1),
        loss_weight=1,
    ),
)
custom_hooks = [dict(type='ctkd_mm.TemperatureLogHook')]
