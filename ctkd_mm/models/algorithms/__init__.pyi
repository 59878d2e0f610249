from .dense_logit_distill import DenseLogitDistill as DenseLogitDistill
from .dense_logit_distill import DenseRows as DenseRows
from .logit_distill import LogitDistill as LogitDistill
from .roi_logit_distill import RoILogitDistill as RoILogitDistill
