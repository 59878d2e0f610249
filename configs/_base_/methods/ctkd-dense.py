# Sigmoid classes of a dense head, one learnable temperature for all.
_base_ = './ctkd.py'
# Ours, not tuned on COCO: 2 makes it a mean over the places where the teacher sees
# something; over all anchors it would be lost beside the detection losses.
loss_kd = dict(type='ctkd_mm.BernoulliCTKDLoss', confidence=2)
# For heads that share layers among the levels, such as RTMDet's.
paramwise_cfg = dict(bypass_duplicate=True)
