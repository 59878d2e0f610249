# A temperature that falls in a straight line, with nothing learned.
loss_kd = dict(
    type='ctkd_mm.CTKDLoss',
    # Ours, not tuned: from what classification uses to what RoI logits distil best at;
    # with end=5, tau is 3.4, 2.8, 2.2, 1.6 and 1 in the first epochs.
    temperature=dict(type='ctkd_mm.LinearTemperature', tau_begin=4, tau_end=1),
)
# The epochs that CTKD's lambda takes in ctkd.py.
custom_hooks = [dict(type='ctkd_mm.TemperatureScheduleHook', end=5)]
