"""The model of a runner."""

from __future__ import annotations

from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner


def teaching(runner: Runner) -> BaseModel | None:
    """The runner's model, out of its wrapper, if it has a teacher of ours."""
    model = unwrapped(runner)
    return model if hasattr(model, 'teacher_sha256') else None


def unwrapped(runner: Runner) -> BaseModel:
    """The runner's model, out of its wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
