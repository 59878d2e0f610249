from .amp_wrapper import AmpOptimWrapper as AmpOptimWrapper
from .amp_wrapper import CPUAmpOptimWrapper as CPUAmpOptimWrapper
from .merged_constructor import (
    MergedOptimWrapperConstructor as MergedOptimWrapperConstructor,
)
