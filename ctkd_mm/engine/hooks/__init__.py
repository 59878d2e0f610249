"""Hooks of a training that need no check or analysis."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(__name__, __file__)
