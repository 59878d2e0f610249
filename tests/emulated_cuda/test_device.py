"""The emulated device: CUDA's rules, the CPU's values."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn import functional

from emulated_cuda.waits import HostWaits

pytestmark = pytest.mark.emulated_cuda


@pytest.mark.parametrize(
    'mix',
    [
        lambda x, y: x + y,
        lambda x, y: x @ y,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.cat([x, y.cuda()]).index_select(0, torch.arange(2)),
        lambda x, y: y[x > 0],
        lambda x, y: x.index_put_((torch.arange(2),), y),
        lambda x, y: functional.linear(x, y),
        lambda x, y: functional.layer_norm(x.half(), (2,), x[0], x[0]),
        lambda x, y: x.half() @ x,
        lambda x, y: x.numpy(),
    ],
)
def test_mixed_devices_and_types_are_refused(mix):
    x = torch.ones(2, 2)
    with pytest.raises((RuntimeError, TypeError), match='same device|cuda|type|cpu'):
        mix(x.cuda(), x)


def test_numbers_and_indices_on_the_host_are_taken():
    x = torch.arange(4.0, device='cuda')
    assert (x + torch.tensor(1)).tolist() == [1, 2, 3, 4]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    assert x[torch.tensor([True, False, False, True])].tolist() == [0, 3]


def test_views_and_results_in_place_share_memory():
    x = torch.zeros(2, 3, device='cuda')
    x.t()[1].add_(1)
    x.view(-1)[:1] = 5
    torch.add(x, 1, out=x)
    assert x.tolist() == [[6, 2, 1], [1, 2, 1]]
    out = torch.empty(0, device='cuda')
    assert torch.add(x, 1, out=out) is out
    assert torch.equal(out, x + 1)
    assert out.device == torch.device('cuda', 0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_computes_layers_in_lower_precision_and_softmax_in_float32(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3, groups=1).cuda()
    image = torch.rand(2, 3, 8, 8, device='cuda')
    with torch.autocast('cuda', dtype):
        logits = layer(image).flatten(1)
        probabilities = logits.softmax(1)
        loss = functional.cross_entropy(logits, torch.tensor([1, 2]).cuda())
    assert logits.dtype == dtype
    assert {probabilities.dtype, loss.dtype} == {torch.float32}
    loss.backward()
    want = copy.deepcopy(layer).cpu()
    want.zero_grad()
    functional.cross_entropy(
        want(image.cpu()).flatten(1), torch.tensor([1, 2])
    ).backward()
    torch.testing.assert_close(
        layer.weight.grad.cpu(), want.weight.grad, rtol=0.05, atol=0.01
    )


@pytest.mark.parametrize('place', [None, 'cuda', 'cuda:0', 'cpu'])
def test_tensors_are_saved_and_loaded(place):
    file = io.BytesIO()
    values = torch.arange(6.0, device='cuda')[2:]
    torch.save(dict(values=values), file)
    file.seek(0)
    got = torch.load(file, map_location=place)['values']
    assert got.device.type == ('cpu' if place == 'cpu' else 'cuda')
    assert got.tolist() == [2, 3, 4, 5]


def test_a_copy_of_a_module_stays_on_the_device_and_shares_nothing():
    layer = torch.nn.Linear(2, 2).cuda()
    copied = copy.deepcopy(layer)
    before = layer.weight.tolist()
    copied.weight.data.add_(1)
    assert copied.weight.device == layer.weight.device
    assert layer.weight.tolist() == before


def test_the_loss_scale_falls_where_a_gradient_overflows():
    weight = torch.ones(1, device='cuda', requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1)
    scaler = torch.amp.GradScaler('cuda')
    scaler.scale((weight * 1e38).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 32768
    assert weight.item() == 1


def boxes() -> torch.Tensor:
    torch.manual_seed(0)
    corners = torch.rand(40, 2) * 20
    return torch.cat([corners, corners + 4 + torch.rand(40, 2) * 12], 1)


def test_mmcvs_operators_give_what_the_cpus_give():
    from mmcv.ops import batched_nms, roi_align

    scores, ids = torch.rand(40), torch.arange(40) % 3
    want = batched_nms(boxes(), scores, ids, dict(type='nms', iou_threshold=0.5))
    got = batched_nms(
        boxes().cuda(), scores.cuda(), ids.cuda(), dict(type='nms', iou_threshold=0.5)
    )
    assert 3 < len(want[1]) < 40
    assert torch.equal(got[1].cpu(), want[1])
    features = torch.rand(1, 2, 32, 32)
    rois = torch.cat([torch.zeros(40, 1), boxes()], 1)
    crops, grads = [], []
    for device, dtype in ('cpu', None), ('cuda', None), ('cuda', torch.float16):
        x = features.to(device, dtype).detach().requires_grad_()
        crops.append(roi_align(x, rois.to(device, dtype), (7, 7)))
        crops[-1].sum().backward()
        grads.append(x.grad)
    assert torch.equal(crops[1].cpu(), crops[0])
    assert torch.equal(grads[1].cpu(), grads[0])
    assert crops[2].dtype == grads[2].dtype == torch.float16
    torch.testing.assert_close(crops[2].float().cpu(), crops[0], rtol=0.02, atol=0.02)


def test_mmcvs_focal_loss_is_mmdetections():
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss, sigmoid_focal_loss

    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 3, 2, 1, 3])
    found = []
    for device, loss in ('cpu', py_sigmoid_focal_loss), ('cuda', sigmoid_focal_loss):
        x = logits.to(device).detach().requires_grad_()
        target = labels.to(device)
        if device == 'cpu':
            target = functional.one_hot(labels, 4)[:, :3]
        loss(x, target, reduction='sum').backward()
        found.append(x.grad.cpu())
    torch.testing.assert_close(*found)


def test_mmcvs_operators_refuse_what_they_have_no_kernel_for():
    from mmcv.ops import nms, roi_align

    rois = torch.cat([torch.zeros(40, 1), boxes()], 1).cuda()
    features = torch.rand(1, 2, 32, 32, device='cuda')
    with pytest.raises(RuntimeError, match='expected one type.*emulated'):
        roi_align(features.half(), rois, (7, 7))
    with pytest.raises(RuntimeError, match='BFloat16.*emulated'):
        nms(rois[:, 1:].bfloat16(), rois[:, 0].bfloat16(), 0.5)


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.sum()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to('cpu'),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: torch.equal(x, x),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.new_tensor([1.0]),
    ],
)
def test_each_way_to_wait_counts(wait):
    x = torch.arange(3.0, device='cuda')
    with HostWaits() as waits:
        x[x.long()] + x.max() * 2
        x.to('cpu', non_blocking=True)
        assert not waits.lines
        wait(x)
    assert waits.files() == {'tests/test_device.py': 1}
