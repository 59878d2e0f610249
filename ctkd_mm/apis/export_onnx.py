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

from ctkd_mm.compat.exporting import exportable
from ctkd_mm.models.teachers.load import build_detector, load_student
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

    Before it is written, ONNX Runtime and PyTorch detect in the image, and in two of it
    side by side. Of their boxes 95% must have a match, within 0.1 pixels and a score of
    0.001; the others may be just above a threshold in one, just below it in the other.

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
    model = build_detector(cfg.model.get('architecture', cfg.model))
    load_student(model, checkpoint)
    detector = ExportedDetector(model).eval()
    pipeline = Compose(get_test_pipeline_cfg(cfg))
    pixels = pipeline(dict(img_path=str(image), img_id=0))['inputs'][None].float()
    if not len(detector(pixels)[0]):
        raise ValueError(f'nothing is found in {image}: give an image with objects')
    file = io.BytesIO()
    with exportable():
        torch.onnx.export(
            detector,
            (pixels,),
            file,
            input_names=['image'],
            output_names=OUTPUTS,
            dynamic_axes={'image': [2, 3], **dict.fromkeys(OUTPUTS, [0])},
            opset_version=17,
            dynamo=False,  # torch.export follows no number that depends on the image
        )
    session = onnxruntime.InferenceSession(file.getvalue())
    for shown in (pixels, torch.cat([pixels, pixels], -1)):
        found = session.run(OUTPUTS, {'image': shown.numpy()})
        compare(detector(shown), map(torch.from_numpy, found))
    write_atomically(out, file.getvalue())
    return Path(out)


class ExportedDetector(nn.Module):
    """A detector from the pixels of one image to its boxes.

    Args:
        model: A detector of MMDetection.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect; input and outputs are those of :func:`export_onnx`."""
        from mmdet.structures import DetDataSample

        inputs = self.model.data_preprocessor(dict(inputs=image))['inputs']
        sample = DetDataSample()
        for name, x in dict(img_shape=image, batch_input_shape=inputs).items():
            # Not set_metainfo: of its copy an export forgets where it comes from.
            sample.set_field((x.shape[2], x.shape[3]), name, field_type='metainfo')
        (found,) = self.model.predict(inputs, [sample], rescale=False)
        return tuple(found.pred_instances[k] for k in ('bboxes', 'scores', 'labels'))


def compare(expected: Iterable[Tensor], found: Iterable[Tensor]) -> None:
    """Compare boxes, scores and labels; see :func:`export_onnx`."""
    rows = [
        torch.cat([boxes, 100 * scores[:, None], 1000.0 * labels[:, None]], 1)
        for boxes, scores, labels in (expected, found)
    ]
    far = torch.cdist(*rows, p=torch.inf) > 0.1
    strays = int(far.all(0).sum() + far.all(1).sum())
    if strays > 0.05 * sum(far.shape):
        raise ValueError(
            f'PyTorch and ONNX Runtime find {len(far)} and {far.shape[1]} boxes, '
            f'{strays} of them without a match: this detector cannot be exported'
        )
