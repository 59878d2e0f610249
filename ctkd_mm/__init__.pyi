from .analysis import TemperatureDoctorHook as TemperatureDoctorHook
from .engine.hooks import CurriculumHook as CurriculumHook
from .engine.hooks import TemperatureLogHook as TemperatureLogHook
from .engine.hooks import TemperatureScheduleHook as TemperatureScheduleHook
from .models.losses import BernoulliCTKDLoss as BernoulliCTKDLoss
from .models.losses import CTKDLoss as CTKDLoss
from .models.losses import DKDLoss as DKDLoss
from .models.losses import NormKDLoss as NormKDLoss
from .models.losses import ZScoreLoss as ZScoreLoss
from .models.losses import bernoulli_kl_div as bernoulli_kl_div
from .models.losses import dkd_kl_div as dkd_kl_div
from .models.losses import kd_kl_div as kd_kl_div
from .models.temperatures import ConstantTemperature as ConstantTemperature
from .models.temperatures import CosineTemperature as CosineTemperature
from .models.temperatures import GlobalTemperature as GlobalTemperature
from .models.temperatures import GradientReversal as GradientReversal
from .models.temperatures import InstanceTemperature as InstanceTemperature
from .models.temperatures import LinearTemperature as LinearTemperature
from .models.temperatures import SharpnessTemperature as SharpnessTemperature
from .models.temperatures import SpreadTemperature as SpreadTemperature
from .models.temperatures import TeacherTemperature as TeacherTemperature
from .models.temperatures import cosine_curriculum as cosine_curriculum
from .models.temperatures import grad_reverse as grad_reverse
from .models.temperatures import set_lambda as set_lambda
from .models.temperatures import set_progress as set_progress

__version__: str
