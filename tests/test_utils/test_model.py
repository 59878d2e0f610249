from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ctkd_mm.utils import model as of


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.weight * inputs[0])


def runner(tmp_path, **keys) -> Runner:
    return Runner(
        Toy(),
        str(tmp_path / 'run'),
        train_dataloader=dict(
            dataset=[dict(inputs=1.0)] * 2,
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        log_level='ERROR',
        experiment_name=tmp_path.name,
        **keys,
    )


@pytest.mark.start
def test_mmengines_private_names_exist_and_mean_what_we_take_them_for(tmp_path):
    first = runner(tmp_path, randomness=dict(seed=0, diff_rank_seed=True))
    assert of.diff_rank_seed(first)
    assert not (of.trains(first) or of.resumes(first) or of.has_loaded(first))
    assert of.load_from(first) is None
    first.train()
    assert of.trains(first)
    path = str(tmp_path / 'run' / 'epoch_1.pth')
    again = runner(tmp_path, resume=True, load_from=path)
    again.load_or_resume()
    assert of.resumes(again)
    assert of.has_loaded(again)
    assert of.load_from(again) == path
    assert not of.diff_rank_seed(again)


def test_a_model_is_taken_out_of_its_wrapper(one_process_group):
    from types import SimpleNamespace

    from mmengine.model import MMDistributedDataParallel

    model = Toy()
    wrapped = SimpleNamespace(model=MMDistributedDataParallel(model))
    assert of.unwrapped(wrapped) is model
    assert of.unwrapped(SimpleNamespace(model=model)) is model
    assert of.teaching(wrapped) is None
    model.teacher_sha256 = None
    assert of.teaching(wrapped) is model
