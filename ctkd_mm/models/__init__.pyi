from .algorithms import *
from .heads import *
from .losses import *
from .teachers import *
from .temperatures import *
