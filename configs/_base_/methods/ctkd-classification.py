# As the paper does it for classifiers: the start is 15.62, and the temperature shares
# the student's learning rate and weight decay.
loss_kd = dict(
    type='ctkd_mm.CTKDLoss',
    temperature=dict(type='ctkd_mm.GlobalTemperature', tau_init=1, tau_range=20),
)
# Of 120 epochs on ImageNet; of 240 on CIFAR-100 it is 10.
custom_hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=5),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
]
