# Plain distillation at a constant temperature. RoI logits are reported to distil
# best near T = 1 (the detection settings of Decoupled Knowledge Distillation).
loss_kd = dict(type='mmrazor.KLDivergence', tau=1)
