"""What a process of a distributed run ends up with, and a config that tells."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module(force=True)
class DigestHook(Hook):
    """Writes the hash of all parameters, tau included, to work_dir/digest_RANK."""

    def after_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        digest = hashlib.sha256()
        for name, parameter in model.named_parameters():
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
        path = Path(runner.work_dir) / f'digest_{get_rank()}'
        path.write_text(digest.hexdigest())


def write_config(path: Path, base: Path) -> None:
    """Write a config that adds the hook to another; ``tests`` must be importable."""
    path.write_text(
        f'_base_ = {str(base)!r}\n'
        "custom_imports = dict(imports=['helpers.digest_hook'])\n"
        "default_hooks = dict(digest=dict(type='mmengine.DigestHook'))\n"
    )
