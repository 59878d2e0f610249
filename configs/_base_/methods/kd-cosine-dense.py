# A temperature that falls along half a cosine, for sigmoid classes.
_base_ = './kd-cosine.py'
# As in ctkd-dense.py.
loss_kd = dict(type='ctkd_mm.BernoulliCTKDLoss', confidence=2)
