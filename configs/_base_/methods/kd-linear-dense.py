# A temperature that falls in a straight line, for sigmoid classes.
_base_ = './kd-linear.py'
# As in ctkd-dense.py.
loss_kd = dict(type='ctkd_mm.BernoulliCTKDLoss', confidence=2)
