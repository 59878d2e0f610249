from .fast_coco_metric import FastCocoMetric as FastCocoMetric
