# Sigmoid classes of a dense head at a constant temperature, as ctkd-dense.py.
loss_kd = dict(
    type='ctkd_mm.BernoulliCTKDLoss',
    temperature=dict(type='ctkd_mm.ConstantTemperature', tau=1),
    confidence=2,
)
