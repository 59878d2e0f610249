# Decoupled distillation at CTKD's learnable temperature.
_base_ = './ctkd.py'
loss_kd = dict(type='ctkd_mm.DKDLoss', alpha=1, beta=0.25)
