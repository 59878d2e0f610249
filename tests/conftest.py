"""Small real detectors, shared by the tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import ctkd_mm  # noqa: F401  before any test imports mmrazor

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _mmdet_scope() -> None:
    # As Runner does for the shipped configs' default_scope.
    init_default_scope('mmdet')


@pytest.fixture(scope='session')
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope='session')
def _detector_cfgs() -> dict:
    models = ROOT / 'configs' / '_base_' / 'models'
    return {
        name: Config.fromfile(models / f'faster-rcnn_{stem}_fpn_digits.py').model
        for name, stem in dict(student='r18-eighth', teacher='r18-half').items()
    }


@pytest.fixture
def student_cfg(_detector_cfgs: dict) -> dict:
    """Config of the demo's student, Faster R-CNN of an eighth of R18's width."""
    return copy.deepcopy(_detector_cfgs['student'])


@pytest.fixture
def teacher_cfg(_detector_cfgs: dict) -> dict:
    """Config of a teacher as narrow as the student, with the demo's wider neck."""
    cfg = copy.deepcopy(_detector_cfgs['teacher'])
    cfg.backbone.base_channels = 8
    cfg.neck.in_channels = [8, 16, 32, 64]
    return cfg


@pytest.fixture
def ctkd_cfg(student_cfg: dict, teacher_cfg: dict) -> dict:
    """Config of a RoILogitDistill with a global temperature."""
    return dict(
        type='ctkd_mm.RoILogitDistill',
        architecture=student_cfg,
        teacher=teacher_cfg,
        loss_kd=dict(
            type='ctkd_mm.CTKDLoss', temperature=dict(type='ctkd_mm.GlobalTemperature')
        ),
    )


@pytest.fixture
def batch() -> dict:
    """Two noise images with 3 and 2 boxes, as a data loader gives them."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for num_boxes in (3, 2):
        image = torch.randint(0, 256, (3, 96, 96), generator=generator)
        inputs.append(image.to(torch.uint8))
        corners = torch.rand(num_boxes, 2, generator=generator) * 50
        sizes = torch.rand(num_boxes, 2, generator=generator) * 30 + 12
        sample = DetDataSample(
            metainfo=dict(img_shape=(96, 96), ori_shape=(96, 96), scale_factor=(1, 1))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corners, corners + sizes], 1),
            labels=torch.randint(0, 10, (num_boxes,), generator=generator),
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


@pytest.fixture
def one_process_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A gloo group of this process alone, for wrapping models in DDP."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='session')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits set of 16 training and 4 validation scenes."""
    from ctkd_mm.demo_data import make_demo_data

    folder = tmp_path_factory.mktemp('digits') / 'data'
    return make_demo_data(folder, num_train=16, num_val=4)


@pytest.fixture(scope='session')
def digits_options(digits: Path) -> list:
    """The --cfg-options that put the demo configs on that set."""
    options = [
        f'{split}_dataloader.{key}'
        for split in ('train', 'val', 'test')
        for key in (
            f'dataset.data_root={digits}/',
            'num_workers=0',
            'persistent_workers=False',
        )
    ]
    annotations = digits / 'annotations' / 'val.json'
    return options + [f'{s}_evaluator.ann_file={annotations}' for s in ('val', 'test')]


@pytest.fixture(scope='session')
def teacher_ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the demo's teacher, untrained."""
    from mmengine.registry import MODELS
    from mmengine.runner import save_checkpoint

    init_default_scope('mmdet')
    config = ROOT / 'configs' / 'demo' / 'faster-rcnn_r18-half_fpn_digits.py'
    torch.manual_seed(1)
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    save_checkpoint(dict(meta={}, state_dict=model.state_dict()), str(path))
    return path
