"""Distillers: the student, the frozen teacher beside it, and the training step.

CTKD in five minutes, about 390 lines of code in this order:

1. ``algorithms/roi_logit_distill``: the teacher scores the student's own RoIs.
2. ``heads/roi_head``: the class logits of RoIs.
3. ``temperatures/learned`` with ``gradient_reversal``: tau, which climbs on the loss.
4. ``losses/kd_loss``: tau² · KL, which the student descends.
5. ``engine/hooks/curriculum_hook``: lambda, the strength of that climb.
"""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(__name__, __file__)
