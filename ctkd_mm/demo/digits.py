"""The digits detection set: real handwritten digits in scenes, in COCO format.

Source: the scans are scikit-learn's ``load_digits`` (Alpaydin and Kaynak, *Optical
Recognition of Handwritten Digits*, UCI Machine Learning Repository, CC BY 4.0).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

CLASSES = tuple('0123456789')
SPLITS = ('train', 'val')
VAL_FRACTION = 0.2
MIN_IMAGE_SIZE = 64  # the smallest digits are 10 px high then; the scans have 8
DIGIT_HEIGHT = (0.16, 0.40)  # in image sides: 20 to 51 px of 128
MAX_OVERLAP = 0.1
FORMAT_VERSION = 1  # raise it when the scenes change: old sets are then made again


def split_scans(seed: int = 0) -> dict[str, np.ndarray]:
    """Share the 1797 scans out between the splits, none to both.

    Args:
        seed: Seed of the permutation, >= 0.

    Returns:
        Scan indices, (M,) int64, by split: four fifths to train, the rest to val.
    """
    num_scans = len(load_digits().images)
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(num_scans)
    num_val = round(VAL_FRACTION * num_scans)
    return {'train': order[num_val:], 'val': order[:num_val]}


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


def _render_scene(
    scans: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[int], list[list[int]]]:
    """Compose a scene of 1 to 9 digits.

    Returns the image, (size, size, 3) uint8; the drawn rows of scans; their boxes, xywh
    in pixels, tight around the ink and inside the image.
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


def _write_split(root: Path, split: str, meta: dict) -> None:
    """Write the images and the annotation file of one split."""
    digits, chosen = load_digits(), split_scans(meta['seed'])[split]
    scans, size = digits.images[chosen], meta['image_size']
    images, annotations = [], []
    (root / split).mkdir()
    for index in range(meta[f'num_{split}']):
        # A generator of its own: a scene does not depend on how many there are.
        rng = np.random.default_rng([meta['seed'], SPLITS.index(split), index])
        image, rows, boxes = _render_scene(scans, size, rng)
        name = f'{index:06d}.png'
        if not cv2.imwrite(str(root / split / name), image):
            raise OSError(f'could not write {root / split / name}')
        images.append({'id': index, 'file_name': name, 'width': size, 'height': size})
        for row, box in zip(rows, boxes):
            annotation = {'image_id': index, 'bbox': box, 'iscrowd': 0}
            annotation['area'] = box[2] * box[3]
            annotation['id'] = len(annotations) + 1  # pycocotools: 0 is "unmatched"
            annotation['category_id'] = int(digits.target[chosen[row]]) + 1
            annotation['scan'] = int(chosen[row])
            annotations.append(annotation)
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(CLASSES)]
    coco = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations').mkdir(exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


def _read_meta(root: Path) -> dict | None:
    """Read the marker of a set made here; None where there is none."""
    try:
        meta = json.loads((root / 'meta.json').read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(meta, dict) and meta.get('format') == 'ctkd_mm digits'
    return meta if ours else None


def _is_complete(root: Path, meta: dict) -> bool:
    """Tell whether root holds every file of the set that meta describes."""
    if _read_meta(root) != meta:
        return False
    files = [root / 'annotations' / f'{split}.json' for split in SPLITS]
    for split in SPLITS:
        files += [root / split / f'{i:06d}.png' for i in range(meta[f'num_{split}'])]
    return all(file.is_file() and file.stat().st_size > 0 for file in files)


def _check_replaceable(root: Path) -> None:
    """Raise ValueError where making the set would delete files not made here."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if _read_meta(root) is None:
        raise ValueError(f'root must be new, empty or a digits set, got {root}')
    foreign = {p.name for p in root.iterdir()} - {*SPLITS, 'annotations', 'meta.json'}
    if foreign:
        raise ValueError(f'root must hold a digits set alone, {root} has {foreign}')


def _make(root: Path, meta: dict) -> None:
    """Make the set beside root, then swap it in by renames."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as work:
        new = Path(work) / 'new'
        new.mkdir()
        for split in SPLITS:
            _write_split(new, split, meta)
        (new / 'meta.json').write_text(json.dumps(meta, indent=2))
        if _is_complete(root, meta):  # another process was quicker
            return
        _check_replaceable(root)
        if root.exists():
            root.rename(Path(work) / 'old')
        new.rename(root)


def make_demo_data(
    root: str | Path,
    num_train: int = 800,
    num_val: int = 200,
    image_size: int = 128,
    seed: int = 0,
) -> Path:
    """Make the digits detection set, unless it is there already.

    ``root`` gets ``train/*.png``, ``val/*.png``, ``annotations/{train,val}.json`` and
    ``meta.json``. The same arguments give the same bytes; a set that lost files or
    was made with other arguments is made again. An interrupted call leaves ``root``
    as it was.

    Args:
        root: Folder of the set: new, empty, or made here before.
        num_train: Number of training scenes, >= 1.
        num_val: Number of validation scenes, >= 1; they share no scan with training.
        image_size: Side of the square scenes in pixels, >= 64.
        seed: Seed of the scan split and of every scene, >= 0.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: If a number is not an int in its range, or ``root`` is a file or
            holds files not made here.

    Source: scans of scikit-learn's ``load_digits``; the format is COCO's, with the
    extra annotation key ``scan``, the index of the scan.
    """
    meta = {'num_train': num_train, 'num_val': num_val, 'image_size': image_size}
    meta['seed'] = seed
    for (name, value), minimum in zip(meta.items(), (1, 1, MIN_IMAGE_SIZE, 0)):
        if type(value) is not int or value < minimum:
            raise ValueError(f'{name} must be an int >= {minimum}, got {value!r}')
    meta.update(format='ctkd_mm digits', version=FORMAT_VERSION)
    root = Path(root)
    if not _is_complete(root, meta):
        _check_replaceable(root)
        _make(root.resolve(), meta)
    return root
