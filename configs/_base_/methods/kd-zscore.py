# Logit Standardization: both models' logits at mean 0 and spread 1.
# The gradient grows as 1 / sigma, large while the student's box head is fresh: consider
# optim_wrapper.clip_grad.
loss_kd = dict(
    type='ctkd_mm.ZScoreLoss',
    loss=dict(
        type='ctkd_mm.CTKDLoss',
        # The base temperature and the weight of the paper's code, for classification.
        temperature=dict(type='ctkd_mm.ConstantTemperature', tau=2),
        loss_weight=9,
    ),
)
custom_hooks = [dict(type='ctkd_mm.TemperatureLogHook')]
