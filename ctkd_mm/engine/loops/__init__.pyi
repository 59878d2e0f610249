from .resumable_loops import (
    ResumableEpochBasedTrainLoop as ResumableEpochBasedTrainLoop,
)
from .resumable_loops import ResumableIterBasedTrainLoop as ResumableIterBasedTrainLoop
from .seeded_data import ReseedHook as ReseedHook
