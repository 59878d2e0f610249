_base_ = ['mmdet::_base_/default_runtime.py', './hooks.py']
default_hooks = _base_.pop('ctkd_hooks')
