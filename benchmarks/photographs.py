"""A shipped pair on photographs, without downloads; weights and boxes are random."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import sklearn
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint

from ctkd_mm.models.teachers.load import build_detector

CONFIG = 'configs/ctkd/ctkd_faster-rcnn_r101-to-r18_fpn_1x_coco.py'
SCALE = (320, 224)
ROIS = 128
IMAGES = 400  # more than are seen: no epoch ends while the clock runs


def prepare(folder: Path) -> None:
    """Write photographs with random boxes, the config and a random teacher."""
    init_default_scope('mmdet')
    classes = CocoDataset.METAINFO['classes']
    photographs = Path(sklearn.__file__).parent / 'datasets' / 'images'
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(IMAGES):
        name = f'{i}.jpg'
        (folder / name).symlink_to(photographs / ('china.jpg', 'flower.jpg')[i % 2])
        images.append(dict(id=i, file_name=name, width=640, height=427))
        for x, y, w, h, category in rng.integers(1, 81, (7, 5)).tolist():
            box = [4 * x, 3 * y, 20 + 3 * w, 20 + 2 * h]
            key = dict(id=len(annotations) + 1, image_id=i, category_id=category)
            annotations.append(dict(key, bbox=box, area=box[2] * box[3], iscrowd=0))
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'train.json').write_text(json.dumps(coco))
    cfg = config(str(folder))
    cfg.train_dataloader.dataset.pipeline[2].scale = SCALE
    cfg.model.architecture.train_cfg.rcnn.sampler.num = ROIS
    cfg.dump(folder / 'config.py')
    teacher = build_detector(cfg.model.teacher)
    meta = dict(dataset_meta=dict(classes=classes))
    checkpoint = dict(meta=meta, state_dict=teacher.state_dict())
    save_checkpoint(checkpoint, str(folder / 'teacher.pth'))


def config(folder: str) -> Config:
    """The shipped config, on that data, without its downloads."""
    cfg = Config.fromfile(CONFIG)
    files = dict(data_root=folder, ann_file='train.json', data_prefix=dict(img=''))
    cfg.merge_from_dict(
        dict(
            work_dir=f'{folder}/run',
            log_level='ERROR',
            optim_wrapper=dict(optimizer=dict(lr=0.0)),
            train_dataloader=dict(batch_size=1, dataset=files),
            model=dict(teacher_ckpt=f'{folder}/teacher.pth'),
        )
    )
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.model.architecture.backbone.init_cfg = None
    for split in ('val', 'test'):
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{key}'] = None
    return cfg
