"""What data parallel training exchanges, and the page that plans with it."""

from __future__ import annotations

import copy
import importlib
import re

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ctkd_mm.registry import MODELS

GRADIENTS, SENT = 'allreduce_ torch.float32', 'broadcast_ torch.float32'


@pytest.fixture
def collectives(root, monkeypatch) -> type:
    """The benchmark's counter of collective operations."""
    monkeypatch.syspath_prepend(str(root / 'benchmarks'))
    return importlib.import_module('collectives').Collectives


def size(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def trainable(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def wrapped(cfg: dict, **kwargs: bool) -> nn.Module:
    """A distiller with a frozen stem, in DDP."""
    cfg = copy.deepcopy(cfg)
    cfg['architecture']['backbone'].update(frozen_stages=1, norm_eval=True)
    model = MODELS.build(cfg)
    model.init_weights()
    model.train()  # MMRazor's returns None
    return MMDistributedDataParallel(model, **kwargs)


def one_step(model: nn.Module, batch: dict) -> None:
    optimizer = torch.optim.SGD(trainable(model), lr=1e-4)
    model.train_step(copy.deepcopy(batch), OptimWrapper(optimizer))


def test_the_counter_counts_what_is_handed_over(one_process_group, collectives):
    with collectives() as counted:
        torch.distributed.all_reduce(torch.zeros(7, dtype=torch.float64))
        torch.distributed.broadcast(torch.zeros(3), 0)
        torch.distributed.broadcast(torch.zeros(2), 0)
    torch.distributed.all_reduce(torch.zeros(1))  # outside
    reduced, sent = 'allreduce_ torch.float64', 'broadcast_ torch.float32'
    assert counted.bytes == {reduced: 7 * 8, sent: 5 * 4}
    assert counted.calls == {reduced: 1, sent: 2}


def test_a_step_exchanges_the_trained_parameters_and_nothing_else(
    one_process_group, collectives, ctkd_cfg, batch
):
    model = wrapped(ctkd_cfg, broadcast_buffers=False)  # as MMEngine's Runner does
    with collectives() as counted:
        one_step(model, batch)
    inner = model.module
    trained = trainable(inner)
    assert counted.bytes == {GRADIENTS: size(trained)}
    assert len(trained) < len(list(inner.parameters()))  # the stem is frozen
    tau = inner.distiller.distill_losses.loss_kd.temperature.raw_tau
    assert any(p is tau for p in trained)


def test_only_a_teacher_inside_is_sent_at_the_start_and_with_the_buffers(
    one_process_group, collectives, ctkd_cfg, batch
):
    stock = dict(
        type='mmrazor.SingleTeacherDistill',
        distiller=dict(type='mmrazor.ConfigurableDistiller'),
        architecture=ctkd_cfg['architecture'],
        teacher=ctkd_cfg['teacher'],
    )
    for cfg in (ctkd_cfg, stock):
        with collectives() as counted:
            model = wrapped(cfg, broadcast_buffers=True)
        inner, start = model.module, counted.bytes[SENT]
        with collectives() as counted:
            one_step(model, batch)
        buffers = size(b for b in inner.buffers() if b.is_floating_point())
        assert start == size(inner.parameters()) + buffers
        assert counted.bytes[SENT] == buffers
        assert counted.bytes[GRADIENTS] == size(trainable(inner))
        held, theirs = set(inner.parameters()), set(inner.teacher.parameters())
        assert held & theirs == (theirs if cfg is stock else set())


def test_the_pages_tables_are_those_of_the_configs(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'docs'))
    table = importlib.import_module('scaling_table')
    page = table.PAGE.read_text()
    assert table.with_tables(page) == page
    linked = re.findall(r'\]\((\.\./[^)]+)\)', page)
    assert linked and all((root / 'docs' / path).is_file() for path in linked)


def test_a_ring_sends_every_byte_twice_but_for_ones_own_share(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / 'docs'))
    table = importlib.import_module('scaling_table')
    # Two phases; in each of n - 1 turns a member passes on a chunk of 1 / n.
    for gpus in (2, 8, 512):
        turns = [12 / gpus for _ in range(gpus - 1)]
        assert table.all_reduce(12, gpus) == pytest.approx(2 * sum(turns))
    assert table.iterations(8, 2) == 7330  # as MMDetection's logs of 8x2 have it


@pytest.mark.process
def test_scale_counts_what_two_processes_exchange(bench, tmp_path, monkeypatch):
    import photographs
    import scale

    shipped = photographs.config

    def config(folder):
        cfg = shipped(folder)
        student = cfg.model.architecture
        student.backbone.base_channels = 8
        student.neck.in_channels = [8, 16, 32, 64]
        student.roi_head.bbox_head.fc_out_channels = 32
        cfg.model.teacher = student
        return cfg

    monkeypatch.setattr(photographs, 'config', config)
    monkeypatch.setattr(photographs, 'SCALE', (64, 64))
    monkeypatch.setattr(photographs, 'ROIS', 8)
    monkeypatch.setattr(scale, 'LOADED', 1)
    photographs.prepare(tmp_path)
    found = scale.measure(tmp_path, repeats=1)
    goals = scale.tables(found)['goals']
    assert [row['measured'] for row in goals] == ['1.000', '0.000']
    assert [len(runs) for runs in found['seconds'].values()] == [1] * 5
