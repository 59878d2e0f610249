# What keeps a run right, for any config of MMDetection's that has hooks of its own:
# `default_hooks = _base_.pop('ctkd_hooks')`.
ctkd_hooks = dict(
    checkpoint=dict(type='ctkd_mm.AtomicCheckpointHook'),
    reseed=dict(type='ctkd_mm.ReseedHook'),
    preflight=dict(type='ctkd_mm.PreflightHook'),
    history=dict(type='ctkd_mm.HistoryHook'),
    finite=dict(type='ctkd_mm.FiniteHook'),
    preemption=dict(type='ctkd_mm.PreemptionHook'),
)
