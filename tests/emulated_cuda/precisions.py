"""The optimizer wrappers of the three precisions that trainings have."""

from __future__ import annotations

PRECISIONS = dict(
    float32=dict(type='OptimWrapper'),
    float16=dict(
        type='ctkd_mm.AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=64)
    ),
    bfloat16=dict(type='ctkd_mm.AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0),
)
