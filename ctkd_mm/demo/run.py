"""The demo: teacher, student alone and CTKD student on scanned digits, compared."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from ctkd_mm.analysis.figures import plot_curriculum
from ctkd_mm.analysis.report.runs import training_minutes
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.apis.extract_student import extract_student
from ctkd_mm.demo.digits import make_demo_data

WORK_DIR = Path('work_dirs/demo')  # where the demo configs look for set and teacher
CONFIGS = Path('configs/demo')
STUDENT = CONFIGS / 'faster-rcnn_r18-eighth_fpn_digits.py'
RUNS = {
    'teacher': CONFIGS / 'faster-rcnn_r18-half_fpn_digits.py',
    'student': STUDENT,
    'ctkd': CONFIGS / 'ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py',
}
DETECTORS = {**RUNS, 'ctkd': STUDENT}  # as evaluated: without teacher
TITLES = dict(teacher='teacher', student='student alone', ctkd='student with CTKD')
SHEET_IMAGES = 4
SCORE_THR = 0.3


def run_demo() -> None:
    """Make the set, train and evaluate all three, print the table.

    Whatever is complete in ``work_dirs/demo`` is kept and an interrupted training
    goes on from its last checkpoint, so the demo can be called again at any time.
    Runs in the root of a checkout.

    Raises:
        FileNotFoundError: If the current folder is no checkout of ctkd_mm.
        subprocess.CalledProcessError: If a training or an evaluation fails.
    """
    if not CONFIGS.is_dir():
        raise FileNotFoundError(f'{CONFIGS} not found: run the demo in a checkout')
    work_dir, start = WORK_DIR, time.time()
    _say('1/5 making the digits set')
    make_demo_data(work_dir / 'data')
    checkpoints = {}
    for name in RUNS:
        _say(f'2/5 training the {TITLES[name]}')
        checkpoints[name] = run_training(name, work_dir)
    _say('3/5 extracting the student')
    checkpoints['ctkd'] = extract_student(checkpoints['ctkd'])
    _say('4/5 evaluating on the validation scenes')
    rows = [_evaluate(name, work_dir, checkpoints[name]) for name in RUNS]
    _say('5/5 drawing')
    curve = plot_curriculum([work_dir / 'ctkd'], work_dir / 'curriculum.png')
    sheet = draw_sheet(work_dir, checkpoints)
    print(f'\n{format_table(rows)}\n\ntemperature and lambda: {curve}')
    print(f'detections: {sheet}\ntotal: {(time.time() - start) / 60:.1f} min')


def format_table(rows: list[dict[str, object]]) -> str:
    """Align rows of equal keys into a table with a header.

    Args:
        rows: One dict a row; values are shown as they are.

    Returns:
        The lines, joined; the first column left-aligned, the others right.
    """
    table = [list(rows[0])] + [[str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in table
    )


def draw_sheet(work_dir: Path, checkpoints: dict[str, Path]) -> Path:
    """Run MMDetection's ``DetInferencer`` and draw detections side by side.

    Args:
        work_dir: The demo's folder.
        checkpoints: Plain detectors' checkpoints: ``teacher`` and ``ctkd``.

    Returns:
        Path of the PNG: a row an image; ground truth, student, teacher.
    """
    from mmdet.apis import DetInferencer
    from pycocotools.coco import COCO

    data = work_dir / 'data'
    coco = COCO(data / 'annotations' / 'val.json')
    images = coco.loadImgs(coco.getImgIds()[:SHEET_IMAGES])
    paths = [str(data / 'val' / image['file_name']) for image in images]
    truth = []
    for image in images:
        found = coco.loadAnns(coco.getAnnIds(image['id']))
        truth.append([(a['bbox'], a['category_id'] - 1) for a in found])
    columns = {'ground truth': truth}
    for name in ('ctkd', 'teacher'):
        inferencer = DetInferencer(
            str(DETECTORS[name]),
            str(checkpoints[name]),
            device='cpu',
            show_progress=False,
        )
        columns[TITLES[name]] = [
            [
                ([x1, y1, x2 - x1, y2 - y1], label)
                for (x1, y1, x2, y2), label, score in zip(
                    found['bboxes'], found['labels'], found['scores']
                )
                if score >= SCORE_THR
            ]
            for found in inferencer(paths)['predictions']
        ]
    picture = np.hstack(
        [
            np.vstack([_draw(p, b) for p, b in zip(paths, boxes)])
            for boxes in columns.values()
        ]
    )
    header = np.full((30, picture.shape[1], 3), 255, np.uint8)
    for i, title in enumerate(columns):
        x = i * picture.shape[1] // len(columns) + 8
        cv2.putText(header, title, (x, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
    out = work_dir / 'detections.png'
    cv2.imwrite(str(out), np.vstack([header, picture]))
    return out


def run_training(name: str, work_dir: Path) -> Path:
    """Train a model of the demo, or go on, unless its last checkpoint is there.

    Args:
        name: A key of ``RUNS``.
        work_dir: The demo's folder.

    Returns:
        The last checkpoint.

    Raises:
        subprocess.CalledProcessError: If the training fails.
    """
    from mmengine.config import Config

    epochs = Config.fromfile(RUNS[name]).train_cfg.max_epochs
    last = work_dir / name / f'epoch_{epochs}.pth'
    # Written after the checkpoint itself, so that it never names half a file.
    named = work_dir / name / 'last_checkpoint'
    if not (named.is_file() and Path(named.read_text()).name == last.name):
        log = work_dir / f'{name}.log'
        _tool('train', log, RUNS[name], '--work-dir', work_dir / name, '--resume')
    return last


def _say(text: str) -> None:
    print(f'\n=== {text}', flush=True)


def _tool(name: str, log: Path, *args: object) -> None:
    """Run a tool: everything into the log, progress and validation to the screen."""
    command = [sys.executable, f'tools/{name}.py', *map(str, args)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('a') as file, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            file.write(line)
            progress = re.search(
                r'Epoch\(\w+\) .*?(?=  (data_)?time:|  coco/\S*_75)', line
            )
            if progress:
                print(f'  {progress.group()}', flush=True)
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-30:])
        print(f'{tail}\nfailed; all of its output: {log}', file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)


def _evaluate(name: str, work_dir: Path, checkpoint: Path) -> dict[str, object]:
    """Evaluate a plain detector's checkpoint: a row of the table."""
    from mmdet.apis import init_detector

    config, out = DETECTORS[name], work_dir / name / 'test'
    _tool('test', out / 'test.log', config, checkpoint, '--work-dir', out)
    metrics = json.loads(sorted(out.glob('*/*.json'))[-1].read_text())
    model = init_detector(str(config), str(checkpoint), device='cpu')
    minutes = training_minutes(read_scalars(work_dir / name))
    return {
        'model': TITLES[name],
        'box mAP': f'{metrics["coco/bbox_mAP"]:.3f}',
        'AP50': f'{metrics["coco/bbox_mAP_50"]:.3f}',
        'parameters': f'{sum(p.numel() for p in model.parameters()):,}',
        'minutes': f'{minutes:.1f}',
    }


def _draw(path: str, boxes: list[tuple]) -> np.ndarray:
    image = cv2.resize(cv2.imread(path), None, fx=2, fy=2)
    for box, label in boxes:
        x, y, w, h = (int(2 * value) for value in box)
        cv2.rectangle(image, (x, y), (x + w, y + h), (0, 255, 0), 1)
        cv2.putText(
            image, str(label), (x, y - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 0), 1
        )
    return image
