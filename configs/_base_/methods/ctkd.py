# One learnable temperature for all RoIs.
loss_kd = dict(
    type='ctkd_mm.CTKDLoss',
    temperature=dict(
        type='ctkd_mm.GlobalTemperature',
        tau_init=1,
        tau_range=20,
        # The paper's start is 15.62; for RoI logits, T near 1 is reported best.
        tau_start=2,
    ),
)
# The paper's ramp takes 5 epochs of 120 on ImageNet; a 1x schedule has 12.
custom_hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=5),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
]
# The paper trains the temperature like any weight, over hundreds of epochs. Ours, not
# tuned on COCO: ten times the rate for a short schedule, and no decay, which would
# pull raw to 0, the middle of the range.
paramwise_cfg = dict(
    custom_keys={'loss_kd.temperature': dict(lr_mult=10, decay_mult=0)}
)
