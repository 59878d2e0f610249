# Logit Standardization: both models' logits at mean 0 and spread 1.
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
