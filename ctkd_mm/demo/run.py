"""The demo: compares teacher, student alone and CTKD student on scanned digits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from mmdet.apis import DetInferencer, init_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config

from ctkd_mm.analysis.figures import plot_curriculum
from ctkd_mm.analysis.report.runs import training_minutes
from ctkd_mm.analysis.run_log import read_scalars
from ctkd_mm.apis.extract_student import extract_student
from ctkd_mm.demo.digits import make_demo_data

WORK_DIR = Path('work_dirs/demo')  # the demo configs read data and teacher from here
CONFIGS = Path('configs/demo')
RUNS = {
    'teacher': CONFIGS / 'faster-rcnn_r18-half_fpn_digits.py',
    'student': CONFIGS / 'faster-rcnn_r18-eighth_fpn_digits.py',
    'ctkd': CONFIGS / 'ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py',
}
DETECTORS = {**RUNS, 'ctkd': RUNS['student']}  # what is evaluated has no teacher
TITLES = dict(teacher='teacher', student='student alone', ctkd='student with CTKD')
SHEET_IMAGES = 4
SCORE_THR = 0.3
PROGRESS = re.compile(r'Epoch\(\w+\) .*?(?=  (data_)?time:|  coco/\S*_75)')
FONT = cv2.FONT_HERSHEY_SIMPLEX


def run_demo() -> list[str]:
    """Make the data, train and evaluate the three models, and compare them.

    What is complete in ``work_dirs/demo`` is kept, and an interrupted training goes on
    from its last checkpoint: the demo can be called again at any time. Call it in the
    root of a checkout.

    Returns:
        The table and the paths of the pictures, as lines.

    Raises:
        FileNotFoundError: If the current folder is not the root of a checkout.
        RuntimeError: If a training or an evaluation fails; with the end of its output.
    """
    print('\n=== 1/5 making the digits set', flush=True)
    make_demo_data(WORK_DIR / 'data')
    checkpoints = {}
    for name in RUNS:
        print(f'\n=== 2/5 training the {TITLES[name]}', flush=True)
        checkpoints[name] = run_training(name, WORK_DIR)
    print('\n=== 3/5 extracting the student', flush=True)
    checkpoints['ctkd'] = extract_student(checkpoints['ctkd'])
    print('\n=== 4/5 evaluating on the validation scenes', flush=True)
    table = format_table([_evaluate(name, checkpoints[name]) for name in RUNS])
    print('\n=== 5/5 drawing', flush=True)
    curve = plot_curriculum([WORK_DIR / 'ctkd'], WORK_DIR / 'curriculum.png')
    return [
        f'\n{table}\n\ntemperature and lambda: {curve}',
        f'detections: {draw_sheet(checkpoints)}',
    ]


def format_table(rows: list[dict[str, object]]) -> str:
    """Align rows of equal keys into a table with a header.

    Args:
        rows: One dict a row; values are shown as they are.

    Returns:
        The lines, joined; the first column left-aligned, the others right.
    """
    columns = [[key, *(str(row[key]) for row in rows)] for key in rows[0]]
    for i, column in enumerate(columns):
        width = max(map(len, column))
        columns[i] = [cell.rjust(width) if i else cell.ljust(width) for cell in column]
    return '\n'.join('  '.join(line) for line in zip(*columns))


def draw_sheet(checkpoints: dict[str, Path]) -> Path:
    """Detect with MMDetection's ``DetInferencer`` and draw what was found.

    Args:
        checkpoints: Of the plain detectors ``teacher`` and ``ctkd``.

    Returns:
        Path of the PNG: a row for each image, with ground truth, student and teacher.
    """
    data = WORK_DIR / 'data'
    coco = json.loads((data / 'annotations' / 'val.json').read_text())
    paths, truth = [], []
    for image in coco['images'][:SHEET_IMAGES]:
        found = [a for a in coco['annotations'] if a['image_id'] == image['id']]
        paths.append(str(data / 'val' / image['file_name']))
        truth.append([(a['bbox'], a['category_id'] - 1) for a in found])
    columns = {'ground truth': truth}
    for name in ('ctkd', 'teacher'):
        model = str(DETECTORS[name]), str(checkpoints[name])
        detect = DetInferencer(*model, device='cpu', show_progress=False)
        found = detect(paths, return_datasamples=True)['predictions']
        columns[TITLES[name]] = map(_detections, found)
    pictures = []
    for title, boxes in columns.items():
        picture = np.vstack([*map(_draw, paths, boxes)])
        header = np.full((30, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(header, title, (8, 21), FONT, 0.6, (0, 0, 0), 1)
        pictures.append(np.vstack([header, picture]))
    out = WORK_DIR / 'detections.png'
    cv2.imwrite(str(out), np.hstack(pictures))
    return out


def _detections(sample: DetDataSample) -> list[tuple[list, int]]:
    found = sample.pred_instances[sample.pred_instances.scores >= SCORE_THR]
    found.bboxes[:, 2:] -= found.bboxes[:, :2]  # width and height, as in a COCO file
    return [*zip(found.bboxes.tolist(), found.labels.tolist())]


def _draw(path: str, boxes: list[tuple[list, int]]) -> np.ndarray:
    image = cv2.resize(cv2.imread(path), None, fx=2, fy=2)
    for box, label in boxes:
        x, y, w, h = (int(2 * value) for value in box)
        cv2.rectangle(image, (x, y), (x + w, y + h), (0, 255, 0), 1)
        cv2.putText(image, str(label), (x, y - 3), FONT, 0.5, (0, 255, 0), 1)
    return image


def run_training(name: str, work_dir: Path) -> Path:
    """Train a model of the demo, from its last checkpoint on, unless it is complete.

    Args:
        name: A key of ``RUNS``.
        work_dir: The demo's folder.

    Returns:
        The last checkpoint.

    Raises:
        RuntimeError: If the training fails; with the end of its output.
    """
    epochs = Config.fromfile(RUNS[name]).train_cfg.max_epochs
    last = work_dir / name / f'epoch_{epochs}.pth'
    if not last.is_file():  # AtomicCheckpointHook never leaves half a file
        log = work_dir / f'{name}.log'
        _tool('train', log, RUNS[name], '--work-dir', work_dir / name, '--resume')
    return last


def _tool(name: str, log: Path, *args: object) -> None:
    """Run a tool: all its output goes to the log, progress to the screen as well."""
    command = [sys.executable, f'tools/{name}.py', *map(str, args)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('a') as file, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            file.write(line)
            progress = PROGRESS.search(line)
            if progress:
                print(f'  {progress[0]}', flush=True)
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-30:])
        raise RuntimeError(f'{tail}\ntools/{name}.py failed; all of its output: {log}')


def _evaluate(name: str, checkpoint: Path) -> dict[str, object]:
    """Evaluate the checkpoint of a plain detector; return its row of the table."""
    config, out = DETECTORS[name], WORK_DIR / name / 'test'
    _tool('test', out / 'test.log', config, checkpoint, '--work-dir', out)
    metrics = json.loads(sorted(out.glob('*/*.json'))[-1].read_text())
    model = init_detector(str(config), str(checkpoint), device='cpu')
    return {
        'model': TITLES[name],
        'box mAP': f'{metrics["coco/bbox_mAP"]:.3f}',
        'AP50': f'{metrics["coco/bbox_mAP_50"]:.3f}',
        'parameters': f'{sum(p.numel() for p in model.parameters()):,}',
        'minutes': f'{training_minutes(read_scalars(WORK_DIR / name)):.1f}',
    }
