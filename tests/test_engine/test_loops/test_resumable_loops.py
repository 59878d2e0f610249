"""A run that was stopped and resumed equals one that never was, bit for bit."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
from helpers.same_bits import assert_same_bits
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ctkd_mm.engine.loops.seeded_data import SeededDataset

pytestmark = pytest.mark.start

STUDENT = 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'
CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
BY_EPOCH = dict(
    type='ctkd_mm.ResumableEpochBasedTrainLoop', max_epochs=2, val_interval=9
)
BY_ITER = dict(type='ctkd_mm.ResumableIterBasedTrainLoop', max_iters=9, val_interval=99)
RANDOM_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.7, 1.0), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]


class Recorder(Hook):
    """Notes what each iteration saw and computed, and the state at the end."""

    priority = 'LOWEST'

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.iterations = {}

    def before_run(self, runner):
        self.first_loader = runner.train_dataloader

    def before_train(self, runner):
        self.seed = runner.seed

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = runner.message_hub.log_scalars
        self.iterations[runner.iter] = dict(
            batch_idx=batch_idx,
            images=[sample.img_id for sample in data_batch['data_samples']],
            pixels=[float(image.double().sum()) for image in data_batch['inputs']],
            losses={key: float(value) for key, value in outputs.items()},
            **{
                key: float(scalars[key].current())
                for key in ('train/tau', 'train/lambda', 'train/lr')
                if key in scalars
            },
        )
        if runner.iter + 1 == self.stop_after:
            runner.save_checkpoint(runner.work_dir, 'stopped.pth', by_epoch=False)
            raise KeyboardInterrupt

    def after_run(self, runner):
        ema = [
            h.ema_model.state_dict() for h in runner.hooks if hasattr(h, 'ema_model')
        ]
        self.last_loader = runner.train_dataloader
        self.state = copy.deepcopy(
            dict(
                model=runner.model.state_dict(),
                optimizer=runner.optim_wrapper.state_dict(),
                schedulers=[s.state_dict() for s in runner.param_schedulers],
                ema=ema,
                progress=(runner.epoch, runner.iter),
            )
        )


@pytest.fixture
def cfg(root: Path, digits: Path) -> Config:
    """The demo's student on 16 scenes: epochs of 4 iterations."""
    return small(root / STUDENT, digits)


def small(path: Path, digits: Path) -> Config:
    cfg = Config.fromfile(path, format_python_code=False)  # which takes a second
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f'{digits}/'
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.pipeline = RANDOM_PIPELINE
    cfg.val_evaluator.ann_file = str(digits / 'annotations' / 'val.json')
    cfg.train_cfg = BY_EPOCH
    cfg.default_hooks = dict(
        logger=dict(type='LoggerHook', interval=1),
        checkpoint=None,
        reseed=dict(type='ctkd_mm.ReseedHook'),
    )
    cfg.log_level = 'WARNING'
    return cfg


def without_val(cfg: Config) -> Config:
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def train(cfg, work_dir, stop_after=None, checkpoint=None) -> Recorder:
    cfg = copy.deepcopy(cfg)
    # Else runs that begin in one second share their message hub.
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    cfg.load_from, cfg.resume = checkpoint and str(checkpoint), bool(checkpoint)
    recorder = Recorder(stop_after)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(recorder)
    if stop_after is None:
        runner.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return recorder


def interrupt(cfg, work_dir, stop_after, resumed_cfg=None) -> Recorder:
    """Stop after some iterations and resume; the record of both parts."""
    first = train(cfg, work_dir, stop_after)
    assert max(first.iterations) + 1 == stop_after
    second = train(
        resumed_cfg or cfg, work_dir / 'resumed', checkpoint=work_dir / 'stopped.pth'
    )
    if second.iterations:
        assert min(second.iterations) == stop_after
    second.iterations = {**first.iterations, **second.iterations}
    return second


def assert_same(straight: Recorder, resumed: Recorder) -> None:
    assert straight.iterations == resumed.iterations
    assert all(
        math.isfinite(loss)
        for record in straight.iterations.values()
        for loss in record['losses'].values()
    )
    assert_same_bits(straight.state, resumed.state)


# What a shipped or a user's config may set, what does not interact at a time.
VARIANTS = dict(
    workers_that_stay=dict(
        train_dataloader=dict(
            num_workers=2,
            persistent_workers=True,
            sampler=dict(_delete_=True, type='ClassAwareSampler'),
        )
    ),
    plain_batches=dict(
        train_dataloader=dict(
            batch_size=3, drop_last=True, batch_sampler=dict(_delete_=True)
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        randomness=dict(seed=3, diff_rank_seed=True),
    ),
    fewer_batches=dict(
        train_dataloader=dict(num_batch_per_epoch=3),
        optim_wrapper=dict(
            accumulative_counts=2,
            optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9),
        ),
    ),
)
INFINITE = dict(
    train_dataloader=dict(sampler=dict(_delete_=True, type='InfiniteSampler'))
)


@pytest.fixture(scope='module')
def straight(root, digits, tmp_path_factory) -> Recorder:
    """The record of 2 epochs of 4 iterations, not interrupted."""
    cfg = without_val(small(root / STUDENT, digits))
    return train(cfg, tmp_path_factory.mktemp('straight'))


@pytest.mark.parametrize('stop_after', [4, 6])
def test_epochs_resume_in_the_middle_and_at_their_last_iteration(
    cfg, straight, tmp_path, stop_after
):
    assert [straight.iterations[i]['batch_idx'] for i in range(8)] == [0, 1, 2, 3] * 2
    assert_same(straight, interrupt(without_val(cfg), tmp_path, stop_after))


def test_the_bits_do_not_depend_on_the_number_of_workers(cfg, straight, tmp_path):
    cfg = without_val(cfg)
    cfg.train_dataloader.num_workers = 2
    assert_same(straight, train(cfg, tmp_path))


@pytest.mark.parametrize('name', VARIANTS)
def test_epochs_resume_exactly_with(cfg, tmp_path, name):
    cfg = without_val(cfg)
    cfg.merge_from_dict(VARIANTS[name])
    assert_same(train(cfg, tmp_path / 'straight'), interrupt(cfg, tmp_path, 2))


@pytest.fixture(scope='module', params=[{}, INFINITE], ids=['default', 'infinite'])
def straight_iterations(request, root, digits, tmp_path_factory) -> tuple:
    """A sampler's config, and the record of 9 iterations with it: 2 passes and 1."""
    cfg = without_val(small(root / STUDENT, digits))
    cfg.train_cfg = BY_ITER
    cfg.merge_from_dict(request.param)
    return request.param, train(cfg, tmp_path_factory.mktemp('straight'))


def test_each_pass_of_iterations_has_an_order_of_its_own(straight_iterations):
    _, straight = straight_iterations
    images = [straight.iterations[i]['images'] for i in range(8)]
    first, second = sum(images[:4], []), sum(images[4:], [])
    assert first != second
    assert sorted(first) == sorted(second) == sorted(set(first))


def test_iterations_resume_exactly(cfg, straight_iterations, tmp_path):
    sampler, straight = straight_iterations
    cfg = without_val(cfg)
    cfg.train_cfg = BY_ITER
    cfg.merge_from_dict(sampler)
    cfg.train_dataloader.num_workers = 2
    assert_same(straight, interrupt(cfg, tmp_path, 6))


def test_images_of_two_shapes_resume_exactly(cfg, digits, tmp_path):
    annotations = json.loads((digits / 'annotations' / 'train.json').read_text())
    for image in annotations['images'][::3]:
        image['width'] -= 1  # taller than wide: the other kind of batch
    changed = tmp_path / 'train.json'
    changed.write_text(json.dumps(annotations))
    cfg = without_val(cfg)
    assert cfg.train_dataloader.batch_sampler.type == 'AspectRatioBatchSampler'
    cfg.train_dataloader.dataset.ann_file = str(changed)
    tall = {image['id'] for image in annotations['images'][::3]}
    straight = train(cfg, tmp_path / 'straight')
    kinds = [
        {image in tall for image in straight.iterations[i]['images']} for i in range(3)
    ]
    assert {True} in kinds and {False} in kinds
    assert_same(straight, interrupt(cfg, tmp_path, 3))


def test_a_run_that_drew_its_own_seed_resumes_with_it(cfg, tmp_path):
    cfg = without_val(cfg)
    cfg.randomness = dict(seed=None)
    resumed = interrupt(cfg, tmp_path, 3)
    cfg.randomness = dict(seed=resumed.seed)
    assert_same(train(cfg, tmp_path / 'straight'), resumed)


def test_validation_changes_nothing(cfg, straight, tmp_path):
    cfg.train_cfg = dict(BY_EPOCH, val_interval=1)
    assert_same(straight, train(cfg, tmp_path / 'straight'))
    assert_same(straight, interrupt(cfg, tmp_path, 4))


def test_validation_between_iterations_changes_nothing(cfg, tmp_path):
    cfg.train_cfg = BY_ITER
    straight = train(without_val(copy.deepcopy(cfg)), tmp_path / 'straight')
    cfg.train_cfg = dict(BY_ITER, val_interval=3)
    assert_same(straight, interrupt(cfg, tmp_path, 4))


def test_tau_and_lambda_resume_exactly(root, digits, teacher_ckpt, tmp_path):
    cfg = without_val(small(root / CTKD, digits))
    cfg.model.teacher_ckpt = str(teacher_ckpt)
    cfg.merge_from_dict(INFINITE)
    cfg.train_cfg = BY_ITER
    cfg.custom_hooks = [dict(type='ctkd_mm.CurriculumHook', end=6, by_epoch=False)]
    straight = train(cfg, tmp_path / 'straight')
    records = straight.iterations.values()
    assert len({record['train/tau'] for record in records}) == len(records)
    assert len({record['train/lambda'] for record in records}) == 6
    assert_same(straight, interrupt(cfg, tmp_path, 5))


def test_the_loss_scale_of_mixed_precision_resumes_exactly(cfg, tmp_path):
    cfg = without_val(cfg)
    cfg.optim_wrapper.type = 'ctkd_mm.CPUAmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = dict(init_scale=1024.0, growth_interval=3)
    straight = train(cfg, tmp_path / 'straight')
    assert straight.state['optimizer']['loss_scaler']['scale'] != 1024.0
    assert_same(straight, interrupt(cfg, tmp_path, 5))


def test_another_batch_size_is_refused_before_training(cfg, tmp_path):
    cfg = without_val(cfg)
    train(cfg, tmp_path, stop_after=3)
    cfg.train_dataloader.batch_size = 2
    with pytest.raises(
        ValueError, match=r"'batch_size': 4.*'batch_size': 2.*train_dataloader"
    ):
        train(cfg, tmp_path / 'resumed', checkpoint=tmp_path / 'stopped.pth')


def test_a_plain_loops_checkpoint_is_refused(cfg, tmp_path):
    cfg = without_val(cfg)
    cfg.train_cfg = dict(BY_EPOCH, type='EpochBasedTrainLoop')
    train(cfg, tmp_path, stop_after=6)
    cfg.train_cfg = BY_EPOCH
    with pytest.raises(ValueError, match='interrupted run had None.*or resume inexac'):
        train(cfg, tmp_path / 'resumed', checkpoint=tmp_path / 'stopped.pth')


def test_epochs_of_another_length_are_refused(cfg, tmp_path):
    cfg = without_val(cfg)
    train(cfg, tmp_path, stop_after=3)
    cfg.train_dataloader.num_batch_per_epoch = 3
    with pytest.raises(ValueError, match=r"'batches': 4.*'batches': 3"):
        train(cfg, tmp_path / 'resumed', checkpoint=tmp_path / 'stopped.pth')


def test_a_loop_without_the_reseed_hook_draws_as_with_it(cfg, straight, tmp_path):
    cfg = without_val(cfg)
    cfg.default_hooks.pop('reseed')
    assert_same(straight, interrupt(cfg, tmp_path, 6))


def test_a_pipeline_that_is_switched_reaches_the_images(cfg, tmp_path):
    cfg = without_val(cfg)
    switched = copy.deepcopy(RANDOM_PIPELINE)
    switched[2] = dict(type='Resize', scale=(48, 48))
    cfg.custom_hooks = [
        dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=switched)
    ]
    straight = train(cfg, tmp_path / 'straight')
    resumed = interrupt(cfg, tmp_path, 6)
    assert_same(straight, resumed)
    assert resumed.last_loader.dataset.pipeline.transforms[2].scale == (48, 48)
    assert resumed.last_loader is not resumed.first_loader
    assert isinstance(resumed.last_loader.dataset, SeededDataset)
    assert resumed.last_loader.dataset is resumed.first_loader.dataset
