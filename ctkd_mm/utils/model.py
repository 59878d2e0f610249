"""What the package asks of a Runner, MMEngine's private names included."""

from __future__ import annotations

from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, Runner


def unwrapped(runner: Runner) -> BaseModel:
    """Return the runner's model, out of all that MMEngine's loader looks through."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def teaching(runner: Runner) -> BaseModel | None:
    """Return the runner's model, out of its wrapper, if it has a teacher of ours."""
    model = unwrapped(runner)
    return model if hasattr(model, 'teacher_sha256') else None


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """Return the wrappers of all optimizers, usually one."""
    wrapper = runner.optim_wrapper
    several = isinstance(wrapper, OptimWrapperDict)
    return list(wrapper.values()) if several else [wrapper]


def trains(runner: Runner) -> bool:
    """Return whether a training has begun: its loop is built."""
    return isinstance(runner._train_loop, BaseLoop)


def resumes(runner: Runner) -> bool:
    """Return whether the runner was told to resume, whatever it finds to resume."""
    return runner._resume


def has_loaded(runner: Runner) -> bool:
    """Return whether the runner has loaded or resumed a checkpoint."""
    return runner._has_loaded


def load_from(runner: Runner) -> str | None:
    """Return the checkpoint that the runner was told to load, or found to resume."""
    return runner._load_from


def diff_rank_seed(runner: Runner) -> bool:
    """Return whether every process has a seed of its own."""
    return bool(runner._randomness_cfg.get('diff_rank_seed'))
