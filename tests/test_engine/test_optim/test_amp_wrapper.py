from __future__ import annotations

import io
import math

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch.nn.modules import module as torch_module

from ctkd_mm.engine.optim.amp_wrapper import AmpOptimWrapper, CPUAmpOptimWrapper
from ctkd_mm.registry import MODELS

STEPS = 12
SCALING = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='no loss scaling on a CPU before 2.3'
)


def build(cfg, device='cpu'):
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.to(device).train()


def wrapped(wrapper, model, **kwargs):
    groups = {1e-3: [], 10.0: []}  # so that tau moves within a few steps
    for name, parameter in model.named_parameters():
        groups[10.0 if 'temperature' in name else 1e-3].append(parameter)
    groups = [dict(params=params, lr=lr) for lr, params in groups.items() if params]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    return wrapper(optimizer=optimizer, **kwargs)


def train(cfg, batch, wrapper, device='cpu', **kwargs):
    """Train some steps on one batch; return the losses of each, and tau."""
    model = build(cfg, device)
    optim_wrapper = wrapped(wrapper, model, **kwargs)
    logged = [model.train_step(batch, optim_wrapper) for _ in range(STEPS)]
    losses = [{k: v.item() for k, v in log.items() if 'loss' in k} for log in logged]
    return losses, model.distiller.distill_losses['loss_kd'].temperature.tau.item()


def test_matches_float32_and_moves_tau_alike(ctkd_cfg, batch):
    want, tau_want = train(ctkd_cfg, batch, OptimWrapper)
    got, tau_got = train(ctkd_cfg, batch, CPUAmpOptimWrapper)
    for step in range(STEPS // 2):  # after that, two roundings are two trainings
        kd_got, kd_want = (x[step].pop('distill.loss_kd') for x in (got, want))
        # A difference of two models' logits: their rounding weighs more in it.
        assert kd_got == pytest.approx(kd_want, rel=1e-1)
        assert got[step] == pytest.approx(want[step], rel=1e-2)
        assert got[step]['loss'] != want[step]['loss']
    start = 1 + 20 / (1 + math.exp(-1))
    assert tau_got - start == pytest.approx(tau_want - start, rel=5e-2)
    assert tau_got - start < -0.1


def dtypes(model, batch, wrapper, record):
    """Run one step and record, by name, what the modules get and give."""
    found = {}
    for name, module in model.named_modules():
        if name in record:
            module.register_forward_hook(
                lambda _, args, output, name=name: found.update({name: (args, output)})
            )
    model.train_step(batch, wrapped(wrapper, model))
    return found


def test_layers_compute_in_bfloat16_and_the_loss_in_float32(ctkd_cfg, batch):
    conv, loss = (
        'architecture.neck.fpn_convs.0.conv',
        'distiller.distill_losses.loss_kd',
    )
    found = dtypes(build(ctkd_cfg), batch, CPUAmpOptimWrapper, {conv, loss})
    assert found[conv][1].dtype == torch.bfloat16
    assert found[loss][1].dtype == torch.float32


def test_boxes_are_not_rounded(student_cfg, batch):
    extractor = 'roi_head.bbox_roi_extractor'
    found = dtypes(build(student_cfg), batch, CPUAmpOptimWrapper, {extractor})
    (features, rois), pooled = found[extractor]
    assert {x.dtype for x in features} == {rois.dtype} == {pooled.dtype}
    assert pooled.dtype == torch.float32
    assert not torch.equal(rois, rois.bfloat16().float())


def test_nothing_stays_behind(student_cfg, batch):
    found = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    model = build(student_cfg)
    model.train_step(batch, wrapped(CPUAmpOptimWrapper, model))
    assert [len(hooks) for hooks in found] == [0, 0]


@SCALING
@pytest.mark.parametrize(
    ('loss_scale', 'scale'),
    [('dynamic', 65536.0), (512, 512.0), (dict(init_scale=8.0), 8.0)],
)
def test_the_loss_scale_is_as_configured(student_cfg, batch, loss_scale, scale):
    model = build(student_cfg)
    optim_wrapper = wrapped(CPUAmpOptimWrapper, model, loss_scale=loss_scale)
    model.train_step(batch, optim_wrapper)
    assert optim_wrapper.loss_scaler.get_scale() == scale


@SCALING
def test_the_scaler_survives_saving_and_loading(student_cfg, batch):
    scale = dict(init_scale=4.0, growth_interval=2)
    model = build(student_cfg)
    optim_wrapper = wrapped(CPUAmpOptimWrapper, model, loss_scale=scale)
    for _ in range(3):
        model.train_step(batch, optim_wrapper)
    file = io.BytesIO()
    torch.save(optim_wrapper.state_dict(), file)
    file.seek(0)
    again = wrapped(CPUAmpOptimWrapper, model)
    again.load_state_dict(torch.load(file))
    state = again.loss_scaler.state_dict()
    assert state['scale'] == 8.0
    assert state['_growth_tracker'] == 1
    assert state == optim_wrapper.loss_scaler.state_dict()


def test_clips_what_it_has_unscaled(student_cfg, batch):
    norms = []
    for wrapper in (OptimWrapper, CPUAmpOptimWrapper):
        model = build(student_cfg)
        optim_wrapper = wrapped(wrapper, model, clip_grad=dict(max_norm=1e6))
        model.train_step(batch, optim_wrapper)
        norms.append(optim_wrapper.message_hub.get_scalar('train/grad_norm').current())
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)


def test_is_found_by_its_name_with_the_options_of_mmdetection(student_cfg):
    optimizer = torch.optim.SGD(build(student_cfg).parameters(), lr=0.1)
    cfg = dict(type='ctkd_mm.CPUAmpOptimWrapper', loss_scale='dynamic')
    optim_wrapper = OPTIM_WRAPPERS.build(dict(cfg, optimizer=optimizer))
    assert type(optim_wrapper) is CPUAmpOptimWrapper


def test_another_dtype_is_refused():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="dtype='float16': .* must be 'bfloat16'"):
        CPUAmpOptimWrapper(optimizer=optimizer, dtype='float16')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_matches_float32_on_a_gpu(ctkd_cfg, batch, dtype):
    want, tau_want = train(ctkd_cfg, batch, OptimWrapper, 'cuda')
    got, tau_got = train(ctkd_cfg, batch, AmpOptimWrapper, 'cuda', dtype=dtype)
    for step in range(STEPS // 2):
        assert got[step]['loss'] == pytest.approx(want[step]['loss'], rel=2e-2)
    assert tau_got == pytest.approx(tau_want, rel=1e-3)
    assert tau_got != tau_want
