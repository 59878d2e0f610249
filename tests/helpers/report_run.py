"""Work directories as a training leaves them, with untrained detectors."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import ROOT, save_detector
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from helpers.run_logs import train_line, write_log

START = '20260102_030405'
STUDENT = 'faster-rcnn_r18-eighth_fpn_digits'
TEACHER = 'faster-rcnn_r18-half_fpn_digits'
CTKD = 'ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits'
LOG = """2026/01/02 03:04:05 - mmengine - INFO - \n\
------------------------------------------------------------
System environment:
    sys.platform: linux
    Python: 3.11.7 (main) [GCC 12.2.0]
    GPU 0,1: NVIDIA H100
    PyTorch: 2.13.0+cpu
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

    MMEngine: 0.10.7

Runtime environment:
    seed: 7
    GPU number: 1
------------------------------------------------------------

2026/01/02 03:04:06 - mmengine - INFO - Config:
model = dict(
    seed: 8
"""


def demo_config(name: str, options: list[str]) -> Config:
    """A config of the demo with ``--cfg-options``."""
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / f'{name}.py')
    pairs = [option.split('=', 1) for option in options]
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
    return cfg


def make_run(folder: Path, cfg: Config, **scalars: float) -> Path:
    """Write log, config and the checkpoint of one epoch of 20 iterations."""
    lines = [train_line(i, epoch=1, time=i / 10, **scalars) for i in (10, 20)]
    metrics = {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.75, 'step': 1}
    log = write_log(folder, START, [*lines, metrics])
    cfg.dump(log.with_name('config.py'))
    (folder / START / f'{START}.log').write_text(LOG)
    init_default_scope('mmdet')
    distilled = 'architecture' in cfg.model
    student = cfg.model.architecture if distilled else cfg.model
    path = save_detector(student, folder / 'epoch_1.pth')
    if distilled:
        saved = torch.load(path)
        weights = saved.pop('state_dict')
        prefixed = {f'architecture.{key}': value for key, value in weights.items()}
        prefixed['distiller.distill_losses.loss_kd.temperature.raw_tau'] = torch.ones(1)
        torch.save(dict(**saved, state_dict=prefixed), path)
    (folder / 'last_checkpoint').write_text(str(path))
    return folder


def make_pair(folder: Path, options: list[str]) -> list[Path]:
    """A teacher, a student alone and its CTKD student."""
    teacher = make_run(folder / 'teacher', demo_config(TEACHER, options))
    student = demo_config(STUDENT, options)
    student.env_cfg.note = '<script>document.title = "run"</script>'
    ctkd = demo_config(CTKD, options)
    ctkd.model.teacher_ckpt = str(teacher / 'epoch_1.pth')
    kd = {'distill.loss_kd': 0.25, 'tau': 2.5, 'lambda': 0.1}
    return [
        teacher,
        make_run(folder / 'student', student),
        make_run(folder / 'ctkd', ctkd, **kd),
    ]
