"""The recipe of RTMDet's pairs, made small: a training through its change of phase."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from conftest import ROOT, save_detector
from helpers.dense_detectors import narrow_detector
from helpers.same_bits import assert_same_bits
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

LEAF = ROOT / 'configs/ctkd/ctkd_rtmdet_m-to-tiny_8xb32-300e_coco.py'
SWITCH, EPOCHS, PER_EPOCH = 2, 4, 2
META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'flip')


def pipeline(prob: float) -> list[dict]:
    """A pipeline that keeps nothing from one image to the next, told by its flips."""
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='RandomResize', scale=(96, 96), ratio_range=(0.5, 1), keep_ratio=True
        ),
        dict(type='RandomFlip', prob=prob),
        dict(type='Pad', size=(96, 96)),
        dict(type='PackDetInputs', meta_keys=META),
    ]


# MMDetection's for RTMDet, made small: each transform mixes in images it has kept.
KEEPS_IMAGES = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=6),
    dict(type='RandomResize', scale=(128, 128), ratio_range=(0.5, 1), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 114, 114))),
    dict(
        type='CachedMixUp',
        img_scale=(64, 64),
        ratio_range=(1.0, 1.0),
        max_cached_images=4,
    ),
    dict(type='PackDetInputs', meta_keys=META[:-1]),
]


class Recorder(Hook):
    """Notes what each iteration computed, and the state at the end."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.losses: dict[int, dict] = {}
        self.flips: dict[int, list] = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = {k: float(v) for k, v in outputs.items()}
        samples = data_batch['data_samples']
        self.flips[runner.iter] = [sample.get('flip') for sample in samples]

    def after_run(self, runner):
        (ema,) = (h.ema_model for h in runner.hooks if hasattr(h, 'ema_model'))
        self.state = copy.deepcopy(
            dict(
                model=runner.model.state_dict(),
                ema=ema.state_dict(),
                optimizer=runner.optim_wrapper.state_dict(),
            )
        )


@pytest.fixture(scope='module')
def recipe(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The shipped leaf on 16 scenes and 4 epochs, its models narrow."""
    init_default_scope('mmdet')
    cfg = Config(Config.fromfile(LEAF).to_dict(), format_python_code=False)
    demo = ROOT / 'configs/demo/kd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
    data = Config.fromfile(demo).train_dataloader.dataset
    data.update(data_root=f'{digits}/', pipeline=pipeline(0.0), serialize_data=False)
    cfg.train_dataloader.update(
        dataset=data, batch_size=8, num_workers=0, persistent_workers=False
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    teacher = narrow_detector('rtmdet', 64)
    cfg.model.update(
        architecture=narrow_detector('rtmdet'),
        teacher=teacher,
        teacher_ckpt=str(
            save_detector(teacher, tmp_path_factory.mktemp('m') / 'm.pth')
        ),
    )
    switch, stop = cfg.custom_hooks[1], cfg.default_hooks.stop
    assert switch.switch_epoch == stop.stop_epoch
    switch.update(switch_epoch=SWITCH, switch_pipeline=pipeline(1.0))
    stop.stop_epoch = SWITCH
    cfg.train_cfg.update(max_epochs=EPOCHS, dynamic_intervals=None)
    cfg.param_scheduler[0].end = 4
    cfg.param_scheduler[1].update(begin=2, end=EPOCHS, T_max=2)
    cfg.default_hooks.update(logger=dict(type='LoggerHook', interval=1))
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=-1)
    cfg.log_processor.window_size = 1
    cfg.randomness, cfg.log_level = dict(seed=0), 'ERROR'
    return cfg


def train(
    recipe: Config, folder: Path, resume: Path | None = None, **options
) -> Recorder:
    cfg = copy.deepcopy(recipe)
    cfg.merge_from_dict(options)
    cfg.work_dir = cfg.visualizer.name = str(folder)
    cfg.load_from, cfg.resume = resume and str(resume), bool(resume)
    recorder = Recorder()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(recorder)
    runner.train()
    return recorder


BF16 = {
    'optim_wrapper.type': 'ctkd_mm.CPUAmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
}


@pytest.fixture(scope='module')
def whole(recipe, tmp_path_factory):
    """The run that is never interrupted, in mixed precision."""
    folder = tmp_path_factory.mktemp('whole')
    return train(recipe, folder, **BF16), folder


@pytest.mark.start
def test_pipeline_and_distillation_change_in_the_same_iteration(whole):
    recorder, folder = whole
    first = SWITCH * PER_EPOCH
    for i, losses in recorder.losses.items():
        assert all(flip == (i >= first) for flip in recorder.flips[i])
        assert (losses['distill.loss_kd'] == 0) == (i >= first)
        assert losses['student.loss_cls'] > 0
    (log,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    shown = [line['distill.loss_kd'] for line in lines]
    assert [bool(value) for value in shown] == [True] * first + [False] * first


@pytest.mark.start
@pytest.mark.parametrize('done', [3, 5])
def test_a_resume_on_either_side_of_the_change_gives_the_same_bits(
    whole, recipe, tmp_path, done
):
    want, folder = whole
    # The change has to reach processes that outlive an epoch, too.
    workers = {
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': True,
    }
    saved = folder / f'iter_{done}.pth'
    found = train(recipe, tmp_path, saved, **BF16, **workers)
    rest = range(done, EPOCHS * PER_EPOCH)
    assert found.losses == {i: want.losses[i] for i in rest}
    assert_same_bits(found.state, want.state)


@pytest.mark.start
@pytest.mark.parametrize('outlives', [True, False])
def test_kept_images_are_exactly_resumed_where_no_worker_outlives_an_epoch(
    recipe, tmp_path, outlives
):
    cfg = copy.deepcopy(recipe)
    cfg.train_dataloader.dataset.pipeline = KEEPS_IMAGES
    # Those in this process live as long as the run.
    cfg.train_dataloader.num_workers = 0 if outlives else 2
    cfg.train_cfg.max_epochs = 2
    want = train(cfg, tmp_path / 'whole').losses
    saved = tmp_path / 'whole' / f'iter_{PER_EPOCH}.pth'
    found = train(cfg, tmp_path / 'resumed', saved).losses
    assert len(found) == PER_EPOCH
    assert (found == {i: want[i] for i in found}) == (not outlives)
