from .atomic_checkpoint_hook import AtomicCheckpointHook as AtomicCheckpointHook
from .curriculum_hook import CurriculumHook as CurriculumHook
from .curriculum_hook import TemperatureScheduleHook as TemperatureScheduleHook
from .finite_hook import FiniteHook as FiniteHook
from .history_hook import HistoryHook as HistoryHook
from .preemption_hook import PreemptionHook as PreemptionHook
from .temperature_log_hook import TemperatureLogHook as TemperatureLogHook
