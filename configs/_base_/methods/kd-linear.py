# A temperature that falls in a straight line, with nothing learned.
loss_kd = dict(
    type='ctkd_mm.CTKDLoss',
    # Ours, not tuned: from what classification uses to what RoI logits distil best at.
    temperature=dict(type='ctkd_mm.LinearTemperature', tau_begin=4, tau_end=1),
)
# The epochs that CTKD's lambda takes in ctkd.py.
custom_hooks = [dict(type='ctkd_mm.TemperatureScheduleHook', end=5)]
