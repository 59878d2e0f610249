"""Hooks of a training that need no check or analysis."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(
    __name__,
    curriculum_hook='CurriculumHook TemperatureScheduleHook',
    temperature_log_hook='TemperatureLogHook',
    atomic_checkpoint_hook='AtomicCheckpointHook',
    finite_hook='FiniteHook',
    history_hook='HistoryHook',
    preemption_hook='PreemptionHook',
)
