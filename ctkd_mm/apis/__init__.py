"""What the tools do to configs, checkpoints and annotation files."""

from .coco_subset import coco_subset
from .export_onnx import export_onnx
from .extract_student import extract_student
from .new_pair import new_pair
from .pair_template import methods

__all__ = ['coco_subset', 'export_onnx', 'extract_student', 'methods', 'new_pair']
