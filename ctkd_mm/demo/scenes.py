"""Scenes of scanned digits: clouds, strokes, halves of digits, and whole ones."""

from __future__ import annotations

import cv2
import numpy as np

DIGIT_HEIGHT = (0.16, 0.40)  # in image sides: 20 to 51 px of 128
MAX_OVERLAP = 0.1


def _render_ink(
    scan: np.ndarray, height: float, max_angle: float, rng: np.random.Generator
) -> np.ndarray:
    """Upsample a scan, its 8 rows to height pixels, turned by up to max_angle degrees.

    Shear, aspect and stroke weight vary too. Returns opacity 0 to 1, (h, w) float32,
    cropped to the pixels above 0.
    """
    angle = np.deg2rad(rng.uniform(-max_angle, max_angle))
    cos, sin = np.cos(angle), np.sin(angle)
    slant = np.array([[rng.uniform(0.8, 1.2), rng.uniform(-0.25, 0.25)], [0, 1]])
    matrix = height / 8 * np.array([[cos, -sin], [sin, cos]]) @ slant
    side = int(2 * height) + 4  # holds the 8x8 square under any of these transforms
    offset = (side - 1) / 2 - matrix @ [3.5, 3.5]
    matrix = np.hstack([matrix, offset[:, None]])
    ink = cv2.warpAffine(
        scan.astype(np.float32) / 16, matrix, (side, side), flags=cv2.INTER_CUBIC
    )
    ink = np.clip((ink - rng.uniform(0.2, 0.4)) / 0.35, 0, 1)
    x, y, w, h = cv2.boundingRect((ink > 0).astype(np.uint8))
    return ink[y : y + h, x : x + w]


def _paint(
    image: np.ndarray, ink: np.ndarray, x: int, y: int, rng: np.random.Generator
) -> None:
    """Blend ink into a float image in a colour lighter or darker than the patch."""
    patch = image[y : y + ink.shape[0], x : x + ink.shape[1]]
    contrast = rng.choice([-1, 1]) * rng.uniform(60, 120) * rng.uniform(0.6, 1, 3)
    colour = np.clip(patch.mean(axis=(0, 1)) + contrast, 0, 255).astype(np.float32)
    patch += ink[..., None] * (colour - patch)


def _paint_stroke(image: np.ndarray, max_width: int, rng: np.random.Generator) -> None:
    """Draw a line or an arc, a distractor."""
    size = len(image)
    mask = np.zeros((size, size), np.uint8)
    start, end = rng.integers(0, size, (2, 2)).tolist()
    width = int(rng.integers(1, max_width + 1))
    if rng.random() < 0.5:
        cv2.line(mask, start, end, 255, width, cv2.LINE_AA)
    else:
        axes = rng.integers(size // 20, size // 5, 2).tolist()
        turn, sweep = rng.integers(0, 360), rng.integers(60, 240)
        cv2.ellipse(
            mask, start, axes, int(turn), 0, int(sweep), 255, width, cv2.LINE_AA
        )
    _paint(image, mask.astype(np.float32) / 255, 0, 0, rng)


def _paint_background(
    scans: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Make a clouded, cluttered (size, size, 3) float32 image without whole digits."""
    image = np.full((size, size, 3), rng.uniform(70, 185, 3), np.float32)
    for cells in (3, 8, 32):
        clouds = rng.normal(0, rng.uniform(2, 10), (cells, cells, 3))
        image += cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(1, 4)):
        _paint_stroke(image, 4, rng)
    for _ in range(rng.integers(1, 4)):
        # Half a digit, turned at will: the strokes of a digit but no class.
        half = scans[rng.integers(len(scans))] * (np.arange(8) < 4)
        ink = _render_ink(half, size * rng.uniform(*DIGIT_HEIGHT), 180, rng)
        x, y = rng.integers(0, [size - ink.shape[1] + 1, size - ink.shape[0] + 1])
        if ink.size:  # a half may be blank
            _paint(image, ink, x, y, rng)
    return image


def _place(
    w: int, h: int, boxes: list[list[int]], size: int, rng: np.random.Generator
) -> list[int] | None:
    """Find room for a box; None after 30 tries that overlapped another box."""
    for _ in range(30):
        x, y = rng.integers(0, [size - w + 1, size - h + 1]).tolist()
        for x2, y2, w2, h2 in boxes:
            across = min(x + w, x2 + w2) - max(x, x2)
            down = min(y + h, y2 + h2) - max(y, y2)
            # Over the smaller area: IoU would let a small digit sit inside a big one.
            if max(across, 0) * max(down, 0) > MAX_OVERLAP * min(w * h, w2 * h2):
                break
        else:
            return [x, y, w, h]
    return None


def render_scene(
    scans: np.ndarray, size: int, rng: np.random.Generator
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
    image = _paint_background(scans, size, rng)
    rows, boxes = [], []
    for _ in range(rng.integers(3, 10)):
        row = int(rng.integers(len(scans)))
        ink = _render_ink(scans[row], size * rng.uniform(*DIGIT_HEIGHT), 12, rng)
        box = _place(ink.shape[1], ink.shape[0], boxes, size, rng)
        if box is not None:
            _paint(image, ink, box[0], box[1], rng)
            rows.append(row)
            boxes.append(box)
    for _ in range(rng.integers(0, 3)):
        _paint_stroke(image, 1, rng)
    image += rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), rows, boxes
