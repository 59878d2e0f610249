# The photographs again, with a student nearly as good as its teacher.
title = 'A teacher hardly better than the student'
student = 'configs/bccd/faster-rcnn_r18-eighth_fpn_bccd.py'
pair = 'configs/bccd/kd_faster-rcnn_r18-half-to-r18-eighth_fpn_bccd.py'
teacher = 'configs/bccd/faster-rcnn_r18-half_fpn_bccd.py'
teacher_dir = 'work_dirs/bccd/teacher'
val_interval = 5
seeds = [0, 1, 2]
runs = {
    'student': dict(title='student alone', method=None),
    'kd-t1': dict(title='KD, T = 1', method='kd'),
    'kd-t4': dict(title='KD, T = 4', method='kd', changes=dict(loss_kd=dict(tau=4))),
    'ctkd': dict(title='CTKD, start and range of ctkd.py', method='ctkd'),
    'ctkd-zscore': dict(title='CTKD of z-scored logits', method='ctkd-zscore'),
}
comparisons = [('ctkd', 'best'), ('ctkd-zscore', 'best')]
shown = ['student', 'kd-t1', 'kd-t4', 'ctkd', 'ctkd-zscore']
