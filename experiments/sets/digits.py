# The demo's scanned digits, as configs/demo has them: how hard the set is was settled
# before the first of these runs, see docs/results.md.
_base_ = './base.py'
title = 'Scanned digits'
student = 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'
pair = 'configs/demo/kd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
teacher = 'configs/demo/faster-rcnn_r18-half_fpn_digits.py'
teacher_dir = 'work_dirs/demo/teacher'
shown = ['student', 'kd-t1', 'kd-t4', 'ctkd', 'kd-zscore', 'ctkd-zscore']
val_interval = 2
# What tools/suggest_temperature.py says of the pair (64 images, seed 0).
temperature = dict(tau_init=0.617, tau_range=7.59, tau_start=2.24)
suggested = dict(loss_kd=dict(temperature=temperature))
weighted = dict(loss_kd=dict(temperature=temperature, loss_weight=0.14))
stop = dict(type='mmrazor.StopDistillHook', stop_epoch=4)
hooks = [
    dict(type='ctkd_mm.CurriculumHook', end=5),
    dict(type='ctkd_mm.TemperatureDoctorHook'),
    stop,
]
half_range = dict(
    loss_kd=dict(temperature=dict(tau_init=0.617, tau_range=3.8, tau_start=2.24))
)
runs = {
    'ctkd': dict(changes=suggested),
    'ctkd-instance': dict(changes=dict(loss_kd=dict(temperature=dict(num_classes=10)))),
    'variant-relative': dict(changes=suggested),
    'variant-difficulty': dict(changes=suggested),
    'variant-balanced': dict(changes=suggested),
    'variant-light': dict(changes=weighted),
    'variant-stop': dict(changes=dict(**suggested, custom_hooks=hooks)),
    'variant-light-stop': dict(changes=dict(**weighted, custom_hooks=hooks)),
    'variant-kd-stop': dict(changes=dict(custom_hooks=[stop])),
    'kd-linear': dict(title='KD, T from 4 to 1 in a line', method='kd-linear'),
    # Each changes one thing in 'ctkd', but for the first, which is ctkd.py as shipped.
    'ablation-shipped': dict(
        title='tau_init 1, tau_range 20, tau_start 2',
        method='ctkd',
        base='ctkd',
        seeds=[0, 1, 2],
    ),
    **{
        f'ablation-{name}': dict(
            title=title,
            method='ctkd',
            base='ctkd',
            changes={**suggested, **changes},
            seeds=[0, 1, 2],
        )
        for name, title, changes in (
            ('range', 'half the tau_range', half_range),
            ('end', 'lambda 1 from the start: end=1', {'custom_hooks.0.end': 1}),
            (
                'by-iter',
                'lambda grows every iteration: by_epoch=False, end=500',
                {'custom_hooks.0': dict(by_epoch=False, end=500)},
            ),
            (
                'lr',
                "the temperature at the student's rate: lr_mult=1",
                dict(
                    paramwise_cfg=dict(
                        custom_keys={'loss_kd.temperature': dict(lr_mult=1)}
                    )
                ),
            ),
        )
    },
}
