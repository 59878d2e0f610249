from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.toy_run import toy_runner
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS, MODELS
from mmengine.runner import Runner, find_latest_checkpoint

from ctkd_mm.apis.extract_student import extract_student
from ctkd_mm.engine.hooks.atomic_checkpoint_hook import AtomicCheckpointHook
from ctkd_mm.utils.files import write_atomically

STUDENT = 'configs/demo/faster-rcnn_r18-eighth_fpn_digits.py'


def train(cfg: Config, *hooks: Hook) -> Runner:
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook, priority='HIGHEST')
    runner.train()
    return runner


@pytest.mark.process
def test_ten_kills_lose_nothing(root):
    done = subprocess.run(
        [sys.executable, 'tests/helpers/kill_saves.py', '--kills', '10'],
        cwd=root,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result['kills'] == 10
    assert result['within_a_save'] >= 4
    assert result['lost'] == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / 'file'
    write_atomically(path, b'before')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk
    try:
        with pytest.raises(OSError):
            write_atomically(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


class Recording(Hook):
    """Notes the files in the work directory whenever a checkpoint is being saved."""

    def __init__(self) -> None:
        self.seen = []

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        files = Path(runner.work_dir).glob('*.pth')
        self.seen.append(sorted(file.name for file in files))


@pytest.mark.start
def test_the_old_goes_only_when_the_new_is_there(tmp_path):
    recording = Recording()
    checkpoint = dict(type='ctkd_mm.AtomicCheckpointHook', interval=1, max_keep_ckpts=1)
    train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=9)
    runner = toy_runner(
        tmp_path,
        (recording,),
        train_cfg=train_cfg,
        default_hooks=dict(checkpoint=checkpoint),
    )
    runner.train()
    assert recording.seen == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']
    assert find_latest_checkpoint(runner.work_dir).endswith('/epoch_3.pth')


class OnDevice(torch.Tensor):
    """A tensor that says of itself that it is on a GPU, until it is moved."""

    @property
    def device(self) -> torch.device:
        return torch.device('cuda:0')

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_every_tensor_of_a_checkpoint_moves_to_the_host():
    value = torch.ones(1).as_subclass(OnDevice)
    weights = torch.nn.Linear(1, 1).state_dict()
    weights['weight'] = value
    checkpoint = dict(
        state_dict=weights,
        optimizer=dict(state={0: [value]}),
        step=value,
        meta=dict(a=1),
    )
    AtomicCheckpointHook().before_save_checkpoint(None, checkpoint)
    moved = [
        checkpoint['state_dict']['weight'],
        checkpoint['optimizer']['state'][0][0],
        checkpoint['step'],
    ]
    assert [tensor.device.type for tensor in moved] == ['cpu'] * 3
    assert checkpoint['state_dict']._metadata == weights._metadata
    assert checkpoint['meta'] == dict(a=1)


class Adding(Hook):
    """Adds a tensor to every checkpoint, as EMAHook does, where that tensor is."""

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        checkpoint['added'] = dict(tensor=torch.ones(1).as_subclass(OnDevice))


@pytest.mark.start
@pytest.mark.parametrize(
    'hooks',
    [
        dict(checkpoint=dict(type='ctkd_mm.AtomicCheckpointHook')),
        dict(preemption=dict(type='ctkd_mm.PreemptionHook')),
    ],
)
def test_what_other_hooks_add_is_saved_from_the_host(tmp_path, hooks):
    toy_runner(tmp_path, (Adding(),), default_hooks=hooks).train()
    saved = torch.load(find_latest_checkpoint(tmp_path), weights_only=False)
    assert type(saved['added']['tensor']) is torch.Tensor


@METRICS.register_module()
class Scripted(BaseMetric):
    """0.1, then 0.3, then 0.2: the second epoch is the best one."""

    def __init__(self) -> None:
        super().__init__(prefix='coco')
        self.values = [0.2, 0.3, 0.1]

    def process(self, data_batch, data_samples) -> None:
        self.results.append(data_samples)

    def compute_metrics(self, results) -> dict:
        return dict(bbox_mAP=self.values.pop())


class Weights(Hook):
    """Keeps the student's weights after every iteration."""

    def __init__(self) -> None:
        self.kept = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        weights = runner.model.student.state_dict()
        self.kept.append({key: value.double() for key, value in weights.items()})


@pytest.mark.start
def test_the_best_checkpoint_is_the_averaged_student_of_the_best_map(demo_cfg):
    demo_cfg.default_hooks.checkpoint.update(save_best='coco/bbox_mAP')
    demo_cfg.val_evaluator = dict(type='Scripted')
    demo_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3))
    weights = Weights()
    runner = train(demo_cfg, weights)
    (best,) = Path(runner.work_dir).glob('best_*.pth')
    assert best.name == 'best_coco_bbox_mAP_epoch_2.pth'
    extracted = torch.load(extract_student(best))['state_dict']
    student = MODELS.build(Config.fromfile(STUDENT).model)
    student.load_state_dict(extracted, strict=True)
    parameters = {name for name, _ in runner.model.student.named_parameters()}
    for name, value in extracted.items():
        want = weights.kept[0][name]
        for kept in weights.kept[1:4]:  # 2 iterations an epoch
            # Buffers are the last ones: BatchNorm's statistics are averages already.
            want = 0.7 * want + 0.3 * kept[name] if name in parameters else kept[name]
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.start
def test_the_teacher_is_named_and_not_stored(demo_cfg, teacher_ckpt):
    demo_cfg.log_level = 'INFO'
    runner = train(demo_cfg)
    path = Path(runner.work_dir) / 'epoch_3.pth'
    loaded = torch.load(path, map_location='cpu')
    tops = {key.split('.')[0] for key in loaded['state_dict']}
    assert tops == {'architecture', 'distiller'}
    groups = loaded['optimizer']['param_groups']
    trained = sum(p.requires_grad for p in runner.model.parameters())
    assert sum(len(group['params']) for group in groups) == trained
    assert loaded['meta']['teacher'] == dict(
        ckpt=str(teacher_ckpt), sha256=runner.model.teacher_sha256
    )
    # Weights and two moments of AdamW; the teacher alone would be 15.6 MB.
    student = sum(p.numel() for p in runner.model.parameters())
    size = path.stat().st_size
    assert size < 3 * 4 * student + 1_000_000
    (log,) = Path(runner.work_dir).glob('*/*.log')
    text = log.read_text()
    sha256 = runner.model.teacher_sha256
    assert f'preflight: teacher_ckpt {teacher_ckpt}, weights sha256 {sha256}' in text
    assert f'Saved {path}, {size / 1e6:.1f} MB' in text


def resumed_from(cfg: Config) -> str:
    """What --resume would load, once the hook has seen the folder."""
    runner = Runner.from_cfg(cfg)
    (hook,) = (h for h in runner.hooks if isinstance(h, AtomicCheckpointHook))
    hook.before_run(runner)
    return find_latest_checkpoint(cfg.work_dir)


@pytest.mark.start
@pytest.mark.parametrize('named', [None, '', 'gone.pth'])
def test_a_broken_last_checkpoint_is_mended(demo_cfg, named):
    work_dir = Path(demo_cfg.work_dir)
    work_dir.mkdir()
    names = ('epoch_9.pth', 'epoch_10.pth', 'epoch_10_student.pth', 'best_x.pth')
    for i, name in enumerate(names):
        (work_dir / name).write_bytes(b'')
        os.utime(work_dir / name, (i, i))
    if named is not None:
        (work_dir / 'last_checkpoint').write_text(named)
    assert resumed_from(demo_cfg) == str(work_dir / 'epoch_10.pth')


@pytest.mark.start
def test_in_a_moved_folder_the_named_checkpoint_is_found(demo_cfg):
    work_dir = Path(demo_cfg.work_dir)
    work_dir.mkdir()
    for i, name in enumerate(('epoch_2.pth', 'epoch_1.pth')):  # as cp -r may date them
        (work_dir / name).write_bytes(b'')
        os.utime(work_dir / name, (i, i))
    (work_dir / 'last_checkpoint').write_text('/where/it/was/epoch_2.pth')
    assert resumed_from(demo_cfg) == str(work_dir / 'epoch_2.pth')


@pytest.mark.start
def test_a_preempted_run_is_found_beside_an_out_dir(demo_cfg, tmp_path):
    work_dir, out_dir = Path(demo_cfg.work_dir), tmp_path / 'out'
    demo_cfg.default_hooks.checkpoint.out_dir = str(out_dir)
    older, newer = out_dir / work_dir.name / 'epoch_3.pth', work_dir / 'preempted.pth'
    for i, path in enumerate((older, newer)):
        path.parent.mkdir(parents=True)
        path.write_bytes(b'')
        os.utime(path, (i, i))
    (work_dir / 'last_checkpoint').write_text('/where/it/was/preempted.pth')
    assert resumed_from(demo_cfg) == str(newer)


@pytest.mark.start
def test_a_sound_last_checkpoint_is_left_alone(demo_cfg):
    work_dir = Path(demo_cfg.work_dir)
    work_dir.mkdir()
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        (work_dir / name).write_bytes(b'')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    assert resumed_from(demo_cfg).endswith('epoch_1.pth')


def test_a_remote_folder_keeps_mmengines_backend():
    hook = AtomicCheckpointHook(out_dir='s3://bucket')
    assert hook.backend_args is None
    hook = AtomicCheckpointHook(file_client_args=dict(backend='disk'))
    assert hook.backend_args is None
    for out_dir in ({}, {'out_dir': Path('here')}):
        hook = AtomicCheckpointHook(**out_dir)
        assert hook.backend_args == dict(backend='ctkd_mm.atomic')
