"""Distillers, losses, temperatures, teachers and heads."""

from importlib import import_module

from ctkd_mm.utils.lazy import face

PACKAGES = ('algorithms', 'losses', 'temperatures', 'teachers', 'heads')
FACES = {n: ' '.join(import_module(f'{__name__}.{n}').__all__) for n in PACKAGES}

__getattr__, __all__ = face(__name__, **FACES)
