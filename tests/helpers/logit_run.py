"""A distillation that takes no time: a linear student and a teacher's logits."""

from __future__ import annotations

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ctkd_mm import CTKDLoss
from ctkd_mm.models.temperatures.learned import LearnedTemperature


class Logits(Dataset):
    metainfo = {}

    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(2, 5, generator=generator))


class Distilled(BaseModel):
    """A linear student behind a loss somewhere deep in the model.

    It has seen, in each iteration, lambda or, where nothing is learned, tau.
    """

    def __init__(self, temperature):
        super().__init__()
        torch.manual_seed(0)
        self.student = torch.nn.Linear(5, 5)
        self.deep = torch.nn.ModuleDict(dict(loss=CTKDLoss(temperature)))
        self.seen = []

    def forward(self, inputs, mode='loss'):
        preds_T, preds_S = inputs.unbind(1)
        loss = self.deep['loss'](self.student(preds_S), preds_T)
        temperature = self.deep['loss'].temperature
        learned = isinstance(temperature, LearnedTemperature)
        self.seen.append(temperature.grl.lambda_ if learned else temperature.tau)
        return dict(loss=loss)


def make_runner(work_dir, model, hook, train_cfg=None, resume=False, **kwargs):
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            dataset=Logits(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=2),
            checkpoint=dict(type='CheckpointHook', interval=1),
        ),
        custom_hooks=[hook],
        visualizer=dict(
            type='Visualizer',
            vis_backends=[
                dict(type='LocalVisBackend'),
                dict(type='TensorboardVisBackend'),
            ],
        ),
        resume=resume,
        experiment_name=f'{work_dir.name}_{id(model)}',
        default_scope='mmengine',
        **kwargs,
    )
