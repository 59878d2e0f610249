_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
train_cfg = dict(type='ctkd_mm.ResumableEpochBasedTrainLoop')
optim_wrapper = dict(constructor='ctkd_mm.MergedOptimWrapperConstructor')
