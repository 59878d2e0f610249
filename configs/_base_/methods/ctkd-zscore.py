# One learnable temperature for all RoIs, on standardised logits.
_base_ = './kd-zscore.py'
loss_kd = dict(
    loss=dict(
        temperature=dict(
            _delete_=True,
            type='ctkd_mm.GlobalTemperature',
            # What tools/suggest_temperature.py says of standardised logits, nearly the
            # same for two pairs of three and of ten classes. Above it the loss is flat.
            tau_init=0.05,
            tau_range=2,
            tau_start=0.4,
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
