from .classes import has_sigmoid as has_sigmoid
from .ld_head import LearnedLDHead as LearnedLDHead
