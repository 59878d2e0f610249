"""Stops a training before a NaN or an infinity reaches the weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor

from ctkd_mm.models.temperatures.base import Temperature, find_temperatures
from ctkd_mm.registry import HOOKS
from ctkd_mm.utils.messages import some
from ctkd_mm.utils.model import optim_wrappers, unwrapped

ADVICE = (
    'Try a lower optim_wrapper.optimizer.lr or a longer warm-up, '
    "optim_wrapper.clip_grad=dict(max_norm=10), optim_wrapper.dtype='bfloat16' or no "
    'AMP, or a smaller tau_range'
)


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stops on a loss, gradient or temperature that is not finite, weights unharmed.

    Every optimizer step is checked just before it changes the weights, after
    unscaling and clipping, with one wait for the device (two for a fused optimizer
    under loss scaling). All processes stop together, at what any of them finds. What
    float16 loss scaling drops by itself stays its business, unless the loss is not
    finite or the gradient overflows even at a scale of 1, to which a fixed
    ``loss_scale`` never falls. No checkpoint with other than
    finite values is saved, but for buffers that began infinite. Losses are those that
    the model returns in MMEngine's mode 'loss'.

    Raises:
        FloatingPointError: During training, naming what is not finite, the
            iteration, every tau and lambda, and the last checkpoint.

    Source: extends :class:`mmengine.hooks.Hook`.
    """

    # Before any hook that would average, save or validate the weights.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.stepped: list[Any] = []
        self.infinite: set[str] = set()
        self.losses: dict[str, Tensor] = {}
        self.handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the model's losses and the optimizer's steps."""
        self.after_train(runner)  # a run that stopped has left its handles
        losses = self.losses

        # No method: a copy of the model, as EMA makes, must not copy this hook.
        def keep_losses(_: Any, args: tuple, kwargs: dict, output: Any) -> None:
            if kwargs.get('mode') == 'loss':
                # MMEngine's total is made of these keys; the others are for the log.
                losses.update({k: _mean(v) for k, v in output.items() if 'loss' in k})

        model = unwrapped(runner)
        self.temperatures = find_temperatures(model)
        # A mask, for example; weights that a step has spoilt are parameters, or NaN.
        self.infinite = {k for k, v in model.named_buffers() if v.isinf().any()}
        self.handles = [model.register_forward_hook(keep_losses, with_kwargs=True)]
        check = partial(self._before_step, runner)
        for wrapper in optim_wrappers(runner):
            self.handles.append(wrapper.optimizer.register_step_pre_hook(check))

    def before_train_iter(self, runner: Runner, **_: Any) -> None:
        """Forget the last iteration."""
        self.stepped.clear()
        self.losses.clear()

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        """Check the losses where no step was taken: accumulation, loss scaling."""
        dropped = [w for w in optim_wrappers(runner) if w.optimizer not in self.stepped]
        if dropped:
            self._check(runner, [], any(map(_overflows, dropped)))
        self.losses.clear()  # they would hold device memory until the next step

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint with other than finite weights.

        Raises:
            FloatingPointError: Naming the tensors; nothing has been written.
        """
        bad = [
            name
            for name, value in checkpoint['state_dict'].items()
            if isinstance(value, Tensor)
            and not (value.isfinite() | (value.isinf() & (name in self.infinite))).all()
        ]
        if bad:
            raise FloatingPointError(
                f'not saved: after {checkpoint["meta"]["iter"]} iterations these '
                f'weights are not finite: {some(bad)}. {_way_out(runner)}'
            )

    def after_train(self, runner: Runner) -> None:
        """Stop watching."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    # Called by the loops of ctkd_mm.engine.loops.resumable_loops when a training fails.
    after_failure = after_train

    def _before_step(self, runner: Runner, optimizer: Any, *_: Any) -> None:
        # A fused optimizer under loss scaling drops the step itself, inside.
        found_inf = getattr(optimizer, 'found_inf', None)
        groups = optimizer.param_groups if found_inf is None else ()
        self._check(runner, [p for group in groups for p in group['params']])
        if not found_inf:
            self.stepped.append(optimizer)

    def _check(
        self, runner: Runner, parameters: list[Tensor], overflows: bool = False
    ) -> None:
        """Stop the run if a loss, a tau or a gradient is not finite."""
        found = self.temperatures.items()
        used = {k: m for k, m in found if m.tau is not None and m.tau.numel()}
        values = dict(self.losses)
        if values:  # else tau is that of another step
            values.update({f'tau of {k}': m.tau.mean() for k, m in used.items()})
        gradients = [p.grad for p in parameters if p.grad is not None and p.numel()]
        norms = torch._foreach_norm(gradients) if gradients else []
        if not overflows and _all_finite([*values.values(), *norms]):
            return
        rank = f' on rank {dist.get_rank()}' if dist.is_distributed() else ''
        found = [f'{k} = {v:g}{rank}' for k, v in values.items() if not v.isfinite()]
        bad = {id(g) for g in gradients if not g.isfinite().all()}
        model = unwrapped(runner)
        where = [name for name, p in model.named_parameters() if id(p.grad) in bad]
        if bad or overflows:
            found.append(f'gradient of {some(where) or "the scaled loss"}')
        found = list(dict.fromkeys(sum(dist.all_gather_object(found), [])))
        # Or only a norm is infinite: the squares of large, finite entries.
        if found:
            curriculum = ''.join(f'; {k}: {_state(m)}' for k, m in used.items())
            raise FloatingPointError(
                f'not finite in iteration {runner.iter + 1}, epoch {runner.epoch + 1}: '
                f'{", ".join(found)}{curriculum}. The weights are those before this '
                f'step. {_way_out(runner)}'
            )


def _state(temperature: Temperature) -> str:
    grl = getattr(temperature, 'grl', None)  # a learnable one's
    strength = '' if grl is None else f', lambda = {grl.lambda_:g}'
    return f'tau = {temperature.tau.mean().item():g}{strength}'


def _overflows(optim_wrapper: Any) -> bool:
    """Whether loss scaling has dropped a step that only a bad gradient explains."""
    scaled = hasattr(optim_wrapper, 'loss_scaler') and optim_wrapper.should_update()
    return scaled and optim_wrapper.loss_scaler.get_scale() < 1


def _mean(value: Tensor | list[Tensor]) -> Tensor:
    """Reduce one loss as MMEngine does before it adds it to the total."""
    values = value if isinstance(value, list) else [value]
    return sum(tensor.detach().float().mean() for tensor in values)


def _all_finite(scalars: list[Tensor]) -> bool:
    """Ask the device once; the answer is that of all processes."""
    values = torch.stack([s.float() for s in scalars]) if scalars else torch.ones(1)
    finite = values.isfinite().all().int()
    dist.all_reduce(finite, 'min')
    return bool(finite)


def _way_out(runner: Runner) -> str:
    last = find_latest_checkpoint(runner.work_dir) or 'none yet'
    return f'Last checkpoint: {last}. {ADVICE}.'
