"""Distillers, losses, temperatures, teachers and heads."""

from importlib import import_module

from ctkd_mm.utils.lazy import face

PACKAGES = ('algorithms', 'losses', 'temperatures', 'teachers', 'heads')

__getattr__, __all__ = face(
    __name__,
    {name: ' '.join(import_module(f'{__name__}.{name}').__all__) for name in PACKAGES},
)
