# Transformed Teacher Matching: only the teacher's logits are tempered.
loss_kd = dict(
    type='ctkd_mm.CTKDLoss',
    # Ours, not tuned: the paper tunes tau (2.5 to 10) and beta = tau * loss_weight
    # (7 to 101) for each CIFAR-100 pair. At tau = 1 it would be kd.py.
    temperature=dict(type='ctkd_mm.TeacherTemperature', tau=2),
    loss_weight=1,
)
custom_hooks = [dict(type='ctkd_mm.TemperatureLogHook')]
