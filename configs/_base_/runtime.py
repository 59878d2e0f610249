_base_ = 'mmdet::_base_/default_runtime.py'
default_hooks = dict(
    checkpoint=dict(type='ctkd_mm.AtomicCheckpointHook'),
    reseed=dict(type='ctkd_mm.ReseedHook'),
    preflight=dict(type='ctkd_mm.PreflightHook'),
    history=dict(type='ctkd_mm.HistoryHook'),
    finite=dict(type='ctkd_mm.FiniteHook'),
    preemption=dict(type='ctkd_mm.PreemptionHook'),
)
