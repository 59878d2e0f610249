_base_ = './runtime.py'
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
log_processor = dict(window_size=10)  # each line averages the iterations since the last
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
