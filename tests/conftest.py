"""Small real detectors and data, which the tests share."""

from __future__ import annotations

import copy
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Workers share the cores. Set before torch is imported, and for other processes too.
os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')

import cv2
import mmengine.config.utils
import pytest
import torch
from helpers.tiers import _tier, pytest_collection_modifyitems  # noqa: F401
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

import ctkd_mm  # noqa: F401  before any test imports mmrazor

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
cv2.setNumThreads(1)
# MMEngine reads a hundred YAML files for each `mmdet::` config: 0.2 s, the same ones.
mmengine.config.utils.load = functools.lru_cache(None)(mmengine.config.utils.load)


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


@pytest.fixture(scope='session')
def _narrow_teacher(_detector_cfgs: dict) -> dict:
    cfg = copy.deepcopy(_detector_cfgs['teacher'])
    cfg.backbone.base_channels = 8
    cfg.neck.in_channels = [8, 16, 32, 64]
    return cfg


@pytest.fixture
def teacher_cfg(_narrow_teacher: dict) -> dict:
    """Config of a teacher as narrow as the student, with the demo's wider neck."""
    return copy.deepcopy(_narrow_teacher)


def save_detector(cfg: dict, path: Path) -> Path:
    """Save an untrained detector as a training on the digits would."""
    torch.manual_seed(1)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
    save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), str(path))
    return path


@pytest.fixture(scope='session')
def narrow_teacher_ckpt(_narrow_teacher: dict, tmp_path_factory: Any) -> Path:
    """A checkpoint of ``teacher_cfg``, untrained; read only."""
    init_default_scope('mmdet')
    path = tmp_path_factory.mktemp('narrow') / 'narrow_teacher.pth'
    return save_detector(_narrow_teacher, path)


@pytest.fixture(scope='session')
def _ctkd_cfg(
    _detector_cfgs: dict, _narrow_teacher: dict, narrow_teacher_ckpt: Path
) -> dict:
    return dict(
        type='ctkd_mm.RoILogitDistill',
        architecture=_detector_cfgs['student'],
        teacher=_narrow_teacher,
        teacher_ckpt=str(narrow_teacher_ckpt),
        loss_kd=dict(
            type='ctkd_mm.CTKDLoss', temperature=dict(type='ctkd_mm.GlobalTemperature')
        ),
    )


@pytest.fixture
def ctkd_cfg(_ctkd_cfg: dict) -> dict:
    """Config of a RoILogitDistill with a global temperature; the seed is 1."""
    torch.manual_seed(1)
    return copy.deepcopy(_ctkd_cfg)


@pytest.fixture(scope='session')
def _batch() -> dict:
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
def batch(_batch: dict) -> dict:
    """Two noise images with 3 and 2 boxes, as a data loader gives them."""
    return copy.deepcopy(_batch)


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
    from ctkd_mm.demo.digits import make_demo_data

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
            'dataset.serialize_data=False',  # it collects garbage first: 0.2 s
        )
    ]
    annotations = digits / 'annotations' / 'val.json'
    return options + [f'{s}_evaluator.ann_file={annotations}' for s in ('val', 'test')]


@pytest.fixture(scope='session')
def teacher_ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the demo's teacher, untrained."""
    init_default_scope('mmdet')
    config = ROOT / 'configs' / 'demo' / 'faster-rcnn_r18-half_fpn_digits.py'
    folder = tmp_path_factory.mktemp('teacher')
    return save_detector(Config.fromfile(config).model, folder / 'teacher.pth')


@pytest.fixture(scope='session')
def _ctkd_demo_cfg() -> dict:
    demo = ROOT / 'configs' / 'demo'
    name = 'ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
    return Config.fromfile(demo / name).to_dict()


@pytest.fixture
def demo_cfg(
    _ctkd_demo_cfg, root, monkeypatch, digits_options, teacher_ckpt, tmp_path
) -> Config:
    """The demo's CTKD config on the small set: 3 epochs of 2 iterations."""
    monkeypatch.chdir(root)  # where the config looks for the teacher's
    cfg = Config(copy.deepcopy(_ctkd_demo_cfg), format_python_code=False)
    pairs = [option.split('=', 1) for option in digits_options]
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
    cfg.work_dir = str(tmp_path / 'run')
    cfg.model.teacher_ckpt = str(teacher_ckpt)
    cfg.train_cfg.update(max_epochs=3, val_interval=1)
    cfg.log_level = 'ERROR'
    # MMEngine keeps one visualizer a name for the whole process.
    cfg.visualizer.name = str(tmp_path)
    return cfg


@pytest.fixture
def small_checkout(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a checkout whose demo trains one epoch on 16 scenes."""
    from ctkd_mm.demo import run as demo
    from ctkd_mm.demo.digits import make_demo_data

    shutil.copytree(root / 'configs', tmp_path / 'configs')
    (tmp_path / 'tools').symlink_to(root / 'tools')
    bases = tmp_path / 'configs' / '_base_'
    for path, old, new in [
        (bases / 'schedules' / 'schedule_demo.py', 'max_epochs=6', 'max_epochs=1'),
        (bases / 'schedules' / 'schedule_demo.py', 'val_interval=6', 'val_interval=1'),
        (*bases.glob('pairs/*_digits.py'), 'epoch_6.pth', 'epoch_1.pth'),
    ]:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    monkeypatch.setattr(
        demo, 'make_demo_data', lambda root: make_demo_data(root, 16, 4)
    )
    monkeypatch.setattr('ctkd_mm.compat.patches.CONFIGS', tmp_path / 'configs')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What the checks warn of."""
    lines = []
    monkeypatch.setattr(
        'ctkd_mm.checks.preflight_hook.print_log', lambda line, *_: lines.append(line)
    )
    return lines
