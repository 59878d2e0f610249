"""Narrow classifiers, and a training that tells what it did in each iteration."""

from __future__ import annotations

import copy
import math

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner


def narrow(classifier: dict, channels: int) -> dict:
    """A classifier of 10 digits, its last stage 8 times as wide as ``channels``."""
    cfg = copy.deepcopy(classifier)
    cfg['backbone'].update(stem_channels=channels, base_channels=channels)
    cfg['head'].update(num_classes=10, in_channels=8 * channels)
    return cfg


def kl_at(raw: float, preds_S: torch.Tensor, preds_T: torch.Tensor) -> float:
    """Mean of tau² KL over the rows, in float64."""
    tau = 1 + 20 / (1 + math.exp(-raw))
    p, q = ((preds.double() / tau).softmax(1) for preds in (preds_T, preds_S))
    return (tau**2 * (p * (p / q).log()).sum(1)).mean().item()


class Spy(Hook):
    """Keeps the logits, the losses and the temperature of every iteration."""

    def __init__(self) -> None:
        self.steps: list[dict] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raw = runner.model.distiller.distill_losses.loss_kd.temperature.raw_tau
        self.raw = raw.item()
        self.student = copy.deepcopy(runner.model.student.state_dict())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        distiller = runner.model.distiller
        preds = {
            f'preds_{side}': distiller.get_record('logits', side == 'S').detach()
            for side in 'ST'
        }
        loss_kd = distiller.distill_losses.loss_kd
        self.steps.append(
            dict(
                raw=self.raw,
                student=self.student,
                raw_after=loss_kd.temperature.raw_tau.item(),
                lambda_=loss_kd.temperature.grl.lambda_,
                losses={k: float(v) for k, v in outputs.items()},
                images=data_batch['inputs'],
                **preds,
            )
        )


def train_digits(cfg: Config, **keys) -> tuple[Runner, list[dict]]:
    """Train a copy of the config with a spy."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(keys)
    runner, spy = Runner.from_cfg(cfg), Spy()
    runner.register_hook(spy)
    runner.train()
    return runner, spy.steps
