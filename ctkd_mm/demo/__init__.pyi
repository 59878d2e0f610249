from .digits import make_demo_data as make_demo_data
from .run import run_demo as run_demo
