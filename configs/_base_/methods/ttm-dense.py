# Transformed Teacher Matching for sigmoid classes.
_base_ = './ttm.py'
# As in ctkd-dense.py.
loss_kd = dict(type='ctkd_mm.BernoulliCTKDLoss', confidence=2)
