from .dry_run import check as check
from .preflight_hook import PreflightHook as PreflightHook
