# COCO, evaluated by hotcoco where that is installed: pip install -e '.[eval]'.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
val_evaluator = dict(type='ctkd_mm.FastCocoMetric')
test_evaluator = val_evaluator
