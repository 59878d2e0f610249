"""Exports a student to ONNX, with its pre- and post-processing."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional

from ctkd_mm.compat.exporting import exportable
from ctkd_mm.models.teachers.load import build_student
from ctkd_mm.utils.files import write_atomically

OUTPUTS = ['boxes', 'scores', 'labels']


def export_onnx(
    cfg: Config, checkpoint: str | Path, image: str | Path, out: str | Path
) -> Path:
    """Write a student as an ONNX file that ONNX Runtime runs by itself.

    Its input ``image`` is (1, 3, H, W), float32: an image after the test pipeline, 0 to
    255, channels as loaded (BGR), of any size that the detector takes. Normalisation,
    padding, decoding, thresholds and NMS are in the file. Its outputs are ``boxes``
    (N, 4), x1 y1 x2 y2 in pixels of the input, ``scores`` (N,) and ``labels`` (N,),
    highest score first; N depends on the image.

    Before it is written, ONNX Runtime and PyTorch detect in the image, and in a part of
    it. Of the boxes of each, 95% must be among the other's, within 0.01 pixels; near a
    threshold or a limit a few may differ.

    Args:
        cfg: The student's config, or that of its distillation.
        checkpoint: The extracted student, or a checkpoint of the distillation.
        image: An image in which the student finds something.
        out: The file to write.

    Returns:
        The path written.

    Raises:
        ImportError: If the extra ``onnx`` is not installed.
        ValueError: If the checkpoint does not fit, nothing is found in the image, or
            ONNX Runtime finds other boxes than PyTorch.
    """
    import onnxruntime
    from mmdet.utils import get_test_pipeline_cfg

    init_default_scope(cfg.get('default_scope') or 'mmdet')
    model = build_student(cfg.model, checkpoint).eval()
    model.forward = lambda image: _detect(model, image)
    pipeline = Compose(get_test_pipeline_cfg(cfg))
    pixels = pipeline(dict(img_path=str(image), img_id=0))['inputs'][None].float()
    if not len(model(pixels)[0]):
        raise ValueError(f'nothing is found in {image}: give an image with objects')
    file = io.BytesIO()
    with exportable():
        torch.onnx.export(
            model,
            (pixels,),
            file,
            input_names=['image'],
            output_names=OUTPUTS,
            dynamic_axes={'image': [2, 3], **dict.fromkeys(OUTPUTS, [0])},
            opset_version=17,
            dynamo=False,  # torch.export follows no number that depends on the image
        )
    session = onnxruntime.InferenceSession(file.getvalue())
    for shown in (pixels, pixels[..., :-32]):
        found = session.run(OUTPUTS, {'image': shown.numpy()})
        far = _differences(map(torch.from_numpy, found), model(shown))
        if far.quantile(0.95) > 0.01:
            raise ValueError(
                f'ONNX Runtime finds other boxes than PyTorch in {image}: '
                f'{type(model).__name__} cannot be exported'
            )
    write_atomically(out, file.getvalue())
    return Path(out)


@torch.no_grad()
def _detect(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """Detect with MMDetection; see :func:`export_onnx` for the image and the result."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample()
    # Not by set_metainfo: an export does not know where its copy comes from.
    sample.set_field((image.shape[2], image.shape[3]), 'img_shape', None, 'metainfo')
    inputs = model.data_preprocessor(dict(inputs=image))['inputs']
    (found,) = model.predict(inputs, [sample], rescale=False)
    return tuple(found.pred_instances[k] for k in ('bboxes', 'scores', 'labels'))


def _differences(*results: Iterable[Tensor]) -> Tensor:
    """Distance of each box, score and label to the nearest of the other result."""
    # A row of zeros: there may be no boxes.
    rows = [
        functional.pad(
            torch.cat([boxes, scores[:, None], labels[:, None]], 1), (0, 0, 0, 1)
        )
        for boxes, scores, labels in results
    ]
    far = torch.cdist(*rows, p=torch.inf)
    return torch.cat([far.amin(0), far.amin(1)])
