# The runs that every set of the ledger has, each with every seed.
#   method   the method config in configs/_base_/methods; None: the student alone
#   changes  merged into that method config
#   tau_of   the constant temperature is where this run's tau ended, with the same seed
#   base     the run that this one changes in one thing; it is no method then
# A run whose entry changes is made again. A set adds what is its own: the student, the
# pair and the teacher (configs), the teacher's run, the epochs between two validations,
# and the suggested ranges.
val_interval = 5
seeds = [0, 1, 2, 3, 4]
few = [0, 1, 2]  # of runs that change one thing
official = dict(loss_kd=dict(temperature=dict(tau_start=None)))  # the paper's, 15.62
runs = {
    'student': dict(title='student alone', method=None),
    'kd-t1': dict(title='KD, T = 1', method='kd'),
    'kd-t2': dict(title='KD, T = 2', method='kd', changes=dict(loss_kd=dict(tau=2))),
    'kd-t4': dict(title='KD, T = 4', method='kd', changes=dict(loss_kd=dict(tau=4))),
    'kd-t8': dict(title='KD, T = 8', method='kd', changes=dict(loss_kd=dict(tau=8))),
    'ctkd-official': dict(
        title='CTKD, official start and range', method='ctkd', changes=official
    ),
    'ctkd': dict(title='CTKD, suggested start and range', method='ctkd'),
    'control-official': dict(
        title='KD, T = the final tau of CTKD, official',
        method='kd',
        tau_of='ctkd-official',
    ),
    'control-ctkd': dict(
        title='KD, T = the final tau of CTKD, suggested', method='kd', tau_of='ctkd'
    ),
    'ctkd-instance': dict(title='CTKD, instance-wise', method='ctkd-instance'),
    'dkd': dict(title='DKD, T = 1', method='dkd'),
    'ctkd-dkd': dict(title='CTKD in DKD', method='ctkd-dkd'),
    'kd-zscore': dict(title='KD of z-scored logits, T = 2', method='kd-zscore'),
    # With the loss weight of the row above, which is not the others'.
    'kd-weight': dict(
        title='KD, T = 2, loss weight 9',
        method='kd',
        changes=dict(loss_kd=dict(tau=2, loss_weight=9)),
    ),
    'ctkd-zscore': dict(title='CTKD of z-scored logits', method='ctkd-zscore'),
    'control-zscore': dict(
        title='KD of z-scored logits, T = the final tau of CTKD',
        method='kd-zscore',
        tau_of='ctkd-zscore',
    ),
    # Each changes one thing, to tell the weight of the loss from its difficulty.
    'variant-relative': dict(
        title='the loss divided by its size, weight 0.3',
        method='ctkd',
        base='ctkd',
        seeds=few,
        changes=dict(loss_kd=dict(type='ctkd_mm.RelativeCTKDLoss', loss_weight=0.3)),
    ),
    'variant-difficulty': dict(
        title="tau's gradient without the factor tau²",
        method='ctkd',
        base='ctkd',
        seeds=few,
        changes=dict(loss_kd=dict(type='ctkd_mm.DifficultyCTKDLoss')),
    ),
    'variant-balanced': dict(
        title='foreground and background alike',
        method='ctkd',
        base='ctkd',
        seeds=few,
        changes=dict(loss_kd=dict(type='ctkd_mm.BalancedCTKDLoss')),
    ),
    'variant-light': dict(
        title="weight as suggested: below the student's loss_cls",
        method='ctkd',
        base='ctkd',
    ),
    'variant-stop': dict(
        title='no distillation in the last third', method='ctkd', base='ctkd', seeds=few
    ),
    'variant-light-stop': dict(
        title='weight as suggested, none in the last third',
        method='ctkd',
        base='ctkd',
        seeds=few,
    ),
    'variant-kd-light': dict(
        title='KD at weight 0.1',
        method='kd',
        base='kd-t2',
        changes=dict(loss_kd=dict(tau=2, loss_weight=0.1)),
    ),
    'variant-kd-stop': dict(
        title='KD, none in the last third',
        method='kd',
        base='kd-t2',
        seeds=few,
        changes=dict(loss_kd=dict(tau=2)),
    ),
    'variant-kd-balanced': dict(
        title='KD, foreground and background alike',
        method='kd',
        base='kd-t2',
        seeds=few,
        changes=dict(
            loss_kd=dict(
                _delete_=True,
                type='ctkd_mm.BalancedCTKDLoss',
                temperature=dict(type='ctkd_mm.ConstantTemperature', tau=2),
            )
        ),
    ),
    'variant-zscore-light': dict(
        title='z-scored logits at weight 1',
        method='kd-zscore',
        base='kd-zscore',
        seeds=few,
        changes=dict(loss_kd=dict(loss=dict(loss_weight=1))),
    ),
}
comparisons = [
    ('ctkd-official', 'control-official'),
    ('ctkd', 'control-ctkd'),
    ('ctkd-zscore', 'control-zscore'),
    ('ctkd-official', 'best'),
    ('ctkd', 'best'),
    ('ctkd-instance', 'best'),
    ('kd-zscore', 'best'),
    ('kd-zscore', 'kd-weight'),
    ('ctkd-dkd', 'dkd'),
]
shown = []
