from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner, save_checkpoint

from ctkd_mm.checks.dry_run import Stop


class StopAtOnce(Hook):
    def before_train(self, runner) -> None:
        raise Stop


@pytest.fixture
def warned(demo_cfg, warnings):
    """Start the demo's student with other settings, and return the warnings."""
    demo_cfg.distillation = dict(model=demo_cfg.model, hooks=demo_cfg.custom_hooks)
    demo_cfg.model = demo_cfg.model.architecture
    demo_cfg.custom_hooks = []
    demo_cfg.paramwise_cfg = demo_cfg.optim_wrapper.paramwise_cfg = None
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    demo_cfg.train_cfg.max_epochs = 26  # iterations 52, beyond the warm-up of 50
    demo_cfg.param_scheduler[1].update(end=26, T_max=26)

    def warned(**options) -> list[str]:
        warnings.clear()
        cfg = copy.deepcopy(demo_cfg)
        cfg.merge_from_dict(options)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(StopAtOnce(), priority='LOW')
        with pytest.raises(Stop):
            runner.train()
        return list(warnings)

    return warned


BACKBONE = 'model.backbone'
NORM = f'{BACKBONE}.norm_cfg.requires_grad'


def test_the_demo_starts_without_a_warning(warned):
    assert warned() == []


@pytest.mark.parametrize(
    ('options', 'numbers'),
    [
        # conv1 and bn1: 3 parameters of 60.
        ({f'{BACKBONE}.frozen_stages': 0}, '3 of its 60 parameters .* 1 of its 20'),
        ({f'{BACKBONE}.norm_eval': True}, '0 of its 60 parameters .* 20 of its 20'),
        ({NORM: False}, '40 of its 60 parameters .* 0 of its 20'),
    ],
    ids=['stem', 'statistics', 'affine'],
)
def test_random_weights_that_stay_frozen_are_told(warned, options, numbers):
    (line,) = warned(**options)
    assert line.startswith(f'{BACKBONE} loads no weights')
    assert re.search(numbers, line)


def test_a_backbone_that_freezes_itself_in_train_alone_is_told(warned):
    backbone = dict(
        type='MobileNetV2', widen_factor=0.1, out_indices=(1, 2, 4, 6), frozen_stages=0
    )
    options = {BACKBONE: dict(**backbone, _delete_=True)}
    options['model.neck.in_channels'] = [8, 8, 8, 32]
    (line,) = warned(**options)
    assert '3 of its ' in line


def test_frozen_weights_that_are_loaded_are_not_told(warned, demo_cfg, tmp_path):
    weights = Runner.from_cfg(demo_cfg).model
    frozen = {f'{BACKBONE}.frozen_stages': 0}
    path = str(tmp_path / 'start.pth')
    save_checkpoint(dict(state_dict=weights.state_dict(), meta={}), path)
    assert warned(**frozen, load_from=path) == []
    path = str(tmp_path / 'backbone.pth')
    backbone = weights.backbone.state_dict()
    save_checkpoint(dict(state_dict=backbone, meta={}), path)
    pretrained = dict(type='Pretrained', checkpoint=path, _delete_=True)
    assert warned(**frozen, **{f'{BACKBONE}.init_cfg': pretrained}) == []


@pytest.mark.parametrize('pretrained', [True, False])
def test_a_backbone_that_names_its_weights_in_its_own_way_counts(
    warned, tmp_path, pretrained
):
    save_checkpoint(dict(state_dict={}, meta={}), str(tmp_path / 'backbone.pth'))
    own = dict(type='DetectoRS_ResNet', depth=50, base_channels=8, frozen_stages=0)
    own['pretrained'] = str(tmp_path / 'backbone.pth') if pretrained else None
    options = {BACKBONE: dict(**own, _delete_=True)}
    options['model.neck.in_channels'] = [32, 64, 128, 256]
    assert len(warned(**options)) == 1 - pretrained


def test_a_student_is_told_by_its_own_key_and_its_teacher_not(warned, demo_cfg):
    demo_cfg.model = demo_cfg.distillation.model
    demo_cfg.custom_hooks = demo_cfg.distillation.hooks
    (line,) = warned(**{'model.architecture.backbone.norm_eval': True})
    assert line.startswith('model.architecture.backbone loads no weights')


def test_a_warm_up_beyond_the_training_is_told_with_both_ends(warned):
    (line,) = warned(**{'train_cfg.max_epochs': 25, 'param_scheduler.0.end': 51})
    assert line.startswith(
        'LinearLR of param_scheduler warms up until iter 51, but the training ends '
        'at iter 50, before lr is what optim_wrapper says'
    )
    assert warned(**{'train_cfg.max_epochs': 25, 'param_scheduler.0.end': 50}) == []


COSINE = dict(type='CosineAnnealingLR', T_max=6, begin=0, end=6)


@pytest.mark.parametrize('count', ['epoch', 'iter'])
def test_a_decay_that_ends_before_the_training_is_told_with_both_ends(warned, count):
    cosine = dict(COSINE, convert_to_iter_based=count == 'iter')
    end, last = dict(epoch=(6, 7), iter=(12, 14))[count]
    options = {'param_scheduler': [cosine], 'train_cfg.max_epochs': 7}
    (line,) = warned(**options)
    assert line.startswith(
        f'CosineAnnealingLR of param_scheduler ends at {count} {end}, but the training '
        f'at {count} {last}: '
    )
    assert warned(**{**options, 'train_cfg.max_epochs': 6}) == []


def test_a_decay_that_another_schedule_follows_is_not_told(warned):
    for factor in (1, 0.5):
        then = dict(type='ConstantLR', factor=factor, begin=6, end=7)
        options = {'param_scheduler': [COSINE, then], 'train_cfg.max_epochs': 7}
        assert warned(**options) == []


@pytest.mark.parametrize('kind', ['ConstantLR', 'QuadraticWarmupLR'])
def test_a_warm_up_of_another_kind_counts_epochs_too(warned, kind):
    scheduler = dict(type=kind, begin=0, end=3, by_epoch=True)
    options = {'param_scheduler': [scheduler], 'train_cfg.max_epochs': 2}
    (line,) = warned(**options)
    assert line.startswith(f'{kind} of param_scheduler warms up until epoch 3, but')


@pytest.mark.parametrize(
    'decay',
    [
        dict(type='LinearLR', start_factor=1, end_factor=0, begin=0, end=99),
        dict(type='ReduceOnPlateauLR', monitor='loss', factor=0.1),
    ],
    ids=lambda cfg: cfg['type'],
)
def test_a_decay_beyond_the_training_is_no_warm_up(warned, decay):
    assert warned(**{'param_scheduler': [decay]}) == []


def test_a_resume_of_nothing_is_told_with_the_folder(warned, demo_cfg):
    (line,) = warned(resume=True)
    assert f'there is nothing to resume in {demo_cfg.work_dir}: the training ' in line


def test_a_resume_of_something_is_not_told(warned, demo_cfg, tmp_path):
    demo_cfg.param_scheduler = None
    runner = Runner.from_cfg(demo_cfg)
    path = Path(demo_cfg.work_dir) / 'epoch_1.pth'
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.save_checkpoint(str(path.parent), path.name, save_param_scheduler=False)
    (path.parent / 'last_checkpoint').write_text(str(path))
    assert warned(resume=True) == []
