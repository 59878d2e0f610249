# Localization Distillation at one learnable temperature for all box edges.
loss_ld = dict(
    type='ctkd_mm.WithTemperature',
    loss=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25),
    temperature=dict(
        type='ctkd_mm.GlobalTemperature',
        tau_init=1,
        tau_range=20,
        # The constant of Localization Distillation.
        tau_start=10,
    ),
)
# As in ctkd.py.
custom_hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=5),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
]
paramwise_cfg = dict(
    custom_keys={'loss_ld.temperature': dict(lr_mult=10, decay_mult=0)}
)
