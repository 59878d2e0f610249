from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS

from ctkd_mm.utils.precision import HALVES, low_precision

DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                not torch.cuda.is_available(), reason='needs a CUDA device'
            ),
        ],
    ),
]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', HALVES)
def test_rois_beyond_1024_pixels_are_not_rounded(dtype, device):
    roi_layer = dict(type='RoIAlign', output_size=2, sampling_ratio=0)
    extractor = MODELS.build(
        dict(
            type='SingleRoIExtractor',
            roi_layer=roi_layer,
            out_channels=1,
            featmap_strides=[8],
        )
    ).to(device)
    cropped = []
    extractor.roi_layers[0].register_forward_pre_hook(
        lambda module, args: cropped.extend(args)
    )
    rois = torch.tensor([[0, 1500.3, 1200.3, 1580.4, 1300.2]], device=device)
    features = torch.ones(1, 1, 208, 208, device=device, dtype=HALVES[dtype])
    with low_precision(rois.device, dtype):
        extractor((features,), rois)
    features, found = cropped
    assert torch.equal(found, rois)
    assert features.dtype == torch.float32
