"""Scenes of scanned digits: clouds, strokes, halves of digits, and whole ones."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

DIGIT_HEIGHT = (0.16, 0.40)  # in image sides: 20 to 51 px of 128
MAX_OVERLAP = 0.1


class Canvas:
    """A square float image with clouds and clutter, to paint digits on.

    Args:
        scans: Grey values of scanned digits, 0 to 16, (M, 8, 8).
        size: Side of the image in pixels.
        rng: Decides everything else.
    """

    def __init__(self, scans: np.ndarray, size: int, rng: Generator) -> None:
        self.size, self.rng = size, rng
        self.image = np.full((size, size, 3), rng.uniform(70, 185, 3), np.float32)
        for cells in (3, 8, 32):
            clouds = rng.normal(0, rng.uniform(2, 10), (cells, cells, 3))
            clouds = cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)
            self.image += clouds
        for _ in range(rng.integers(1, 4)):
            self.paint_stroke(4)
        for _ in range(rng.integers(1, 4)):
            # Half a digit, turned at will: the strokes of a digit but no class.
            half = scans[rng.integers(len(scans))] * (np.arange(8) < 4)
            ink = self.render_ink(half, 180)
            x, y = rng.integers(0, [size - ink.shape[1] + 1, size - ink.shape[0] + 1])
            if ink.size:  # a half may be blank
                self.paint(ink, x, y)

    def render_ink(self, scan: np.ndarray, max_angle: float) -> np.ndarray:
        """Upsample a scan, (8, 8), and turn it by up to max_angle degrees.

        Size, shear, aspect and stroke weight vary too. Returns opacity 0 to 1, (h, w)
        float32, cropped to the pixels above 0.
        """
        rng, height = self.rng, self.size * self.rng.uniform(*DIGIT_HEIGHT)
        angle = np.deg2rad(rng.uniform(-max_angle, max_angle))
        cos, sin = np.cos(angle), np.sin(angle)
        slant = np.array([[rng.uniform(0.8, 1.2), rng.uniform(-0.25, 0.25)], [0, 1]])
        matrix = height / 8 * np.array([[cos, -sin], [sin, cos]]) @ slant
        side = int(2 * height) + 4  # holds the scan under any of these transforms
        offset = (side - 1) / 2 - matrix @ [3.5, 3.5]
        matrix = np.hstack([matrix, offset[:, None]])
        ink = scan.astype(np.float32) / 16
        ink = cv2.warpAffine(ink, matrix, (side, side), flags=cv2.INTER_CUBIC)
        ink = np.clip((ink - rng.uniform(0.2, 0.4)) / 0.35, 0, 1)
        x, y, w, h = cv2.boundingRect((ink > 0).astype(np.uint8))
        return ink[y : y + h, x : x + w]

    def paint(self, ink: np.ndarray, x: int, y: int) -> None:
        """Blend ink in, in a colour lighter or darker than what it covers."""
        patch, rng = self.image[y : y + ink.shape[0], x : x + ink.shape[1]], self.rng
        contrast = rng.choice([-1, 1]) * rng.uniform(60, 120) * rng.uniform(0.6, 1, 3)
        colour = np.clip(patch.mean(axis=(0, 1)) + contrast, 0, 255).astype(np.float32)
        patch += ink[..., None] * (colour - patch)

    def paint_stroke(self, max_width: int) -> None:
        """Paint a line or an arc, which no class is."""
        size, rng = self.size, self.rng
        mask = np.zeros((size, size), np.uint8)
        start, end = rng.integers(0, size, (2, 2)).tolist()
        width = int(rng.integers(1, max_width + 1))
        if rng.random() < 0.5:
            cv2.line(mask, start, end, 255, width, cv2.LINE_AA)
        else:
            axes = rng.integers(size // 20, size // 5, 2).tolist()
            arc = int(rng.integers(0, 360)), 0, int(rng.integers(60, 240))
            cv2.ellipse(mask, start, axes, *arc, 255, width, cv2.LINE_AA)
        self.paint(mask.astype(np.float32) / 255, 0, 0)

    def find_room(self, w: int, h: int, boxes: list[list[int]]) -> list[int] | None:
        """Find room for a box; None after 30 tries that overlapped another box."""
        x2, y2, w2, h2 = np.reshape(boxes, (-1, 4)).T
        # Over the smaller area: IoU would let a small digit sit inside a big one.
        allowed = MAX_OVERLAP * np.minimum(w * h, w2 * h2)
        for _ in range(30):
            x, y = self.rng.integers(0, [self.size - w + 1, self.size - h + 1]).tolist()
            across = np.minimum(x + w, x2 + w2) - np.maximum(x, x2)
            down = np.minimum(y + h, y2 + h2) - np.maximum(y, y2)
            if np.all(across.clip(0) * down.clip(0) <= allowed):
                return [x, y, w, h]
        return None


def render_scene(
    scans: np.ndarray, size: int, rng: Generator
) -> tuple[np.ndarray, list[int], list[list[int]]]:
    """Compose a scene of 1 to 9 digits.

    Args:
        scans: Grey values of scanned digits, 0 to 16, (M, 8, 8).
        size: Side of the square scene in pixels.
        rng: Decides everything else.

    Returns:
        The image, (size, size, 3) uint8; the drawn rows of scans; their boxes, xywh in
        pixels, tight around the ink and inside the image.
    """
    canvas, rows, boxes = Canvas(scans, size, rng), [], []
    for _ in range(rng.integers(3, 10)):
        row = int(rng.integers(len(scans)))
        ink = canvas.render_ink(scans[row], 12)
        box = canvas.find_room(ink.shape[1], ink.shape[0], boxes)
        if box is not None:
            canvas.paint(ink, box[0], box[1])
            rows.append(row)
            boxes.append(box)
    for _ in range(rng.integers(0, 3)):
        canvas.paint_stroke(1)
    canvas.image += rng.normal(0, rng.uniform(2, 8), canvas.image.shape)
    return np.clip(canvas.image, 0, 255).astype(np.uint8), rows, boxes
