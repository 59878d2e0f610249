"""The data preprocessor of a pair: each model gets the pixels it was trained on."""

from __future__ import annotations

import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor


class PairDataPreprocessor(BaseDataPreprocessor):
    """Preprocess a batch for the student and, in training, for the teacher too.

    Each ``data_preprocessor`` normalises, orders the channels of and pads the same raw
    images as it does where its model stands alone. Boxes count pixels from the upper
    left corner and the padding is added right and below, so RoIs fit both batches. Two
    that agree share one batch.

    Args:
        student: The student's; it also prepares the annotations.
        teacher: The teacher's, used as in evaluation: without its own
            ``batch_augments``.

    Raises:
        ValueError: If one is no ``ImgDataPreprocessor`` (a detector without one in its
            config has none), or the student's ``batch_augments`` change the
            images and the two do not agree.

    Source: extends :class:`mmengine.model.BaseDataPreprocessor`.
    """

    def __init__(
        self, student: ImgDataPreprocessor, teacher: ImgDataPreprocessor
    ) -> None:
        super().__init__(non_blocking=student._non_blocking)
        for key, value in dict(architecture=student, teacher=teacher).items():
            if not isinstance(value, ImgDataPreprocessor):
                raise ValueError(
                    f'{key}.data_preprocessor must be a DetDataPreprocessor, got '
                    f'{type(value).__name__}: give the model the one it was trained '
                    'with'
                )
        self.student, self.teacher = student, teacher
        self.shared = pixels_of(student) == pixels_of(teacher)
        augments = getattr(student, 'batch_augments', None)
        if augments is not None and not self.shared:
            names = [type(augment).__name__ for augment in augments]
            raise ValueError(
                f'architecture.data_preprocessor.batch_augments={names} changes '
                'normalised images, and the teacher wants others. Student: '
                f'{pixels_of(student)}, teacher: {pixels_of(teacher)}. Drop '
                'batch_augments, or take a teacher of the same data_preprocessor'
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return the student's ``inputs`` and ``data_samples``.

        In training also ``teacher_inputs``, (B, 3, H', W'), padded as the teacher's.
        """
        data = self.cast_data(data)  # to the device once, not for each model
        prepared = self.student(data, training)
        if training and self.shared:
            prepared['teacher_inputs'] = prepared['inputs']
        elif training:
            images = dict(inputs=data['inputs'], data_samples=None)
            prepared['teacher_inputs'] = self.teacher(images, False)['inputs']
        return prepared

    def require_equal_padding(self) -> None:
        """Raise a ValueError if the two batches, and so feature maps, differ in size.

        For losses that compare feature maps or dense logits.
        """
        divisors = self.student.pad_size_divisor, self.teacher.pad_size_divisor
        if divisors[0] != divisors[1]:
            raise ValueError(
                f'data_preprocessor.pad_size_divisor is {divisors[0]} in architecture '
                f'and {divisors[1]} in teacher, so the maps that the loss compares '
                'differ in size: make them equal'
            )


def pixels_of(preprocessor: BaseDataPreprocessor) -> dict:
    """What decides about the pixels, comparable."""
    swaps = getattr(preprocessor, 'to_rgb', None)  # mmpretrain's name
    values = dict(swaps_channels=getattr(preprocessor, '_channel_conversion', swaps))
    for key in ('mean', 'std', 'pad_size_divisor', 'pad_value'):
        value = getattr(preprocessor, key, None)
        values[key] = value.flatten().tolist() if torch.is_tensor(value) else value
    return dict(type=type(preprocessor).__name__, **values)
