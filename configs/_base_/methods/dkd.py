# Decoupled distillation at a constant temperature, with the authors' detection
# settings: alpha 1, beta 0.25, T = 1.
loss_kd = dict(
    type='ctkd_mm.DKDLoss',
    temperature=dict(type='ctkd_mm.ConstantTemperature', tau=1),
    alpha=1,
    beta=0.25,
)
