"""The demos: scanned digits, and photographs of blood cells."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(__name__, __file__)
