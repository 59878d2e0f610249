"""Curriculum Temperature for Knowledge Distillation in object detection.

Importing this package repairs MMRazor and MMEngine for the running PyTorch. The names
below need torch and MMEngine only and are imported on first use. The distiller needs
the whole OpenMMLab stack: :mod:`ctkd_mm.models.algorithms.roi_logit_distill`.
"""

from ctkd_mm.compat import patches
from ctkd_mm.utils.lazy import face

patches.apply()

__version__ = '0.2.0'

__getattr__, __all__ = face(__name__, __file__)
