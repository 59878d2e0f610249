# A temperature for each RoI, from both models' class probabilities.
_base_ = './ctkd.py'
loss_kd = dict(temperature=dict(type='ctkd_mm.InstanceTemperature', num_classes=80))
# A network, unlike one scalar, is not sped up.
paramwise_cfg = dict(custom_keys={'loss_kd.temperature': dict(lr_mult=1)})
