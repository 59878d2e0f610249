# A temperature that falls along half a cosine, with nothing learned.
_base_ = './kd-linear.py'
loss_kd = dict(temperature=dict(type='ctkd_mm.CosineTemperature'))
