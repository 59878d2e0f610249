"""Teachers: loaded whole or refused, sped up, shown their own pixels."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(__name__, __file__)
