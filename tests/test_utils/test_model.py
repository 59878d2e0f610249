from __future__ import annotations

from types import SimpleNamespace

import mmdet.datasets
import pytest
import torch
from mmdet.datasets import CocoDataset, MultiImageMixDataset
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ctkd_mm.engine.loops.seeded_data import SeededDataset
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


def digits_set(digits, **metainfo) -> CocoDataset:
    return CocoDataset(
        ann_file=f'{digits}/annotations/train.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=tuple('0123456789'), **metainfo),
    )


@pytest.mark.parametrize(
    ('wrap', 'key'),
    [
        (SeededDataset, 'key'),
        (lambda part: RepeatDataset(part, 2), 'key.dataset'),
        (lambda part: ClassBalancedDataset(part, 1e-3), 'key.dataset'),
        (lambda part: ConcatDataset([part]), 'key.datasets.0'),
        (lambda part: MultiImageMixDataset(part, []), 'key.dataset'),
        (
            # As from a config: wrappers take no wrapper, but its config.
            lambda part: SeededDataset(
                RepeatDataset(dict(type=lambda: ConcatDataset([part])), 2)
            ),
            'key.dataset.datasets.0',
        ),
    ],
    ids=['seeded', 'repeat', 'balanced', 'concat', 'mix', 'nested'],
)
def test_wrappers_are_looked_into(digits, wrap, key):
    part = digits_set(digits)
    assert list(of.parts(wrap(part), 'key')) == [(key, part)]


def test_parts_keep_the_metainfo_that_their_wrapper_makes_a_list_of(digits):
    colours = [[(i, i, i)] * 10 for i in (0, 9)]
    parts = [digits_set(digits, palette=palette) for palette in colours]
    train = SimpleNamespace(dataset=mmdet.datasets.ConcatDataset(parts))
    val = SimpleNamespace(dataset=parts[0])
    assert isinstance(train.dataset.metainfo, list)
    runner = SimpleNamespace(train_dataloader=train, val_dataloader=val, val_loop=1)
    found = dict(of.data_sets(runner))
    assert list(found) == [
        'train_dataloader.dataset.datasets.0',
        'train_dataloader.dataset.datasets.1',
        'val_dataloader.dataset',
    ]
    assert [part.metainfo['palette'] for part in found.values()] == [
        *colours,
        colours[0],
    ]


@pytest.mark.parametrize(
    ('number', 'shown'), [(None, range(16)), (16, range(16)), (5, range(0, 16, 3))]
)
def test_images_of_a_sample_are_evenly_spaced(digits, number, shown):
    found = [info['sample_idx'] for info in of.infos(digits_set(digits), number)]
    assert found == [*shown]


def test_a_set_without_descriptions_tells_nothing():
    assert list(of.infos([1, 2])) == []
