"""Heads of one-stage and two-stage detectors: the class logits of places."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(__name__, __file__)
