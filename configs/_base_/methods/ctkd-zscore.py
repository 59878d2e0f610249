# One learnable temperature for all RoIs, on standardised logits.
_base_ = './kd-zscore.py'
loss_kd = dict(
    loss=dict(
        temperature=dict(
            _delete_=True,
            type='ctkd_mm.GlobalTemperature',
            tau_init=1,
            tau_range=20,
            # The base temperature of kd-zscore.py; CTKD's own start is 15.62.
            tau_start=2,
        ),
    ),
)
# Ramp, rate and decay as in ctkd.py. The loss_weight of kd-zscore.py, 9, multiplies the
# temperature's ascent too.
custom_hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=5),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
]
paramwise_cfg = dict(
    custom_keys={'loss_kd.loss.temperature': dict(lr_mult=10, decay_mult=0)}
)
