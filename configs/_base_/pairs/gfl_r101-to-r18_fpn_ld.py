# Teacher: MMDetection's model zoo, 44.7 box AP. Detector and student: MMDetection's own
# Localization Distillation.
_base_ = []  # else MMEngine takes a file with an import for one of its new style
from mmengine.hub import get_config  # noqa: E402

model = get_config('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py').model
# There it is a path in a checkout of MMDetection.
model.teacher_config = dict(
    model=get_config('mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py').model
)
