# Blood cells under a microscope: see configs/bccd, and docs/results.md for the choice.
_base_ = './base.py'
title = 'Photographs of blood cells'
student = 'configs/bccd/faster-rcnn_r18-sixteenth_fpn_bccd.py'
pair = 'configs/bccd/kd_faster-rcnn_r18-half-to-r18-sixteenth_fpn_bccd.py'
teacher = 'configs/bccd/faster-rcnn_r18-half_fpn_bccd.py'
teacher_dir = 'work_dirs/bccd/teacher'
shown = ['student', 'kd-t1', 'kd-t4', 'ctkd', 'kd-zscore', 'ctkd-zscore']
# What tools/suggest_temperature.py says of the pair (64 images, seed 0).
temperature = dict(tau_init=1.61, tau_range=28.3, tau_start=6.31)
suggested = dict(loss_kd=dict(temperature=temperature))
weighted = dict(loss_kd=dict(temperature=temperature, loss_weight=0.02))
stop = dict(type='mmrazor.StopDistillHook', stop_epoch=20)
hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=5),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
    stop,
]
runs = {
    'ctkd': dict(changes=suggested),
    'ctkd-instance': dict(changes=dict(loss_kd=dict(temperature=dict(num_classes=3)))),
    'variant-relative': dict(changes=suggested),
    'variant-difficulty': dict(changes=suggested),
    'variant-balanced': dict(changes=suggested),
    'variant-light': dict(changes=weighted),
    'variant-stop': dict(changes=dict(**suggested, custom_hooks=hooks)),
    'variant-light-stop': dict(changes=dict(**weighted, custom_hooks=hooks)),
    'variant-kd-stop': dict(changes=dict(custom_hooks=[stop])),
}
