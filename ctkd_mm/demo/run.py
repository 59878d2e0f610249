"""The demo: compares teacher, student alone and distilled student on one set."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ctkd_mm.analysis.report.page import write_report
from ctkd_mm.analysis.report.runs import training_minutes
from ctkd_mm.analysis.run_log import is_validated, read_metrics, read_scalars
from ctkd_mm.apis.extract_student import extract_student
from ctkd_mm.demo.digits import make_demo_data
from ctkd_mm.models.teachers.load import build_detector

PROGRESS = re.compile(r'Epoch\(\w+\) .*?(?=  (data_)?time:|  coco/\S*_75)')


@dataclass(frozen=True)
class Demo:
    """A pair of detectors on one set.

    Args:
        work_dir: Where all is written; the pair's config reads the teacher from here.
        runs: Configs of the teacher, of the student alone and of the distilled student,
            the last by the name of its method.
    """

    work_dir: Path
    runs: dict[str, str]

    def title(self, name: str) -> str:
        """Say what the table calls a run."""
        titles = dict(teacher='teacher', student='student alone')
        return titles.get(name, f'student with {name.upper()}')

    def prepare(self) -> None:
        """Make the digits, or find the photographs.

        Raises:
            FileNotFoundError: If the photographs are missing.
        """
        root = Path(Config.fromfile(self.runs['student']).data_root)
        if self.work_dir in root.parents:
            make_demo_data(root)
        elif not root.is_dir():
            raise FileNotFoundError(
                f'data_root={str(root)!r} is missing: docs/own-detector.md says where '
                'to get this set and how to convert it'
            )

    def train(self, name: str) -> Path:
        """Train a run, from its last checkpoint on, unless it is complete.

        Args:
            name: A key of ``runs``.

        Returns:
            The last checkpoint.

        Raises:
            RuntimeError: If the training fails; with the end of its output.
        """
        config, out = self.runs[name], self.work_dir / name
        epochs = Config.fromfile(config).train_cfg.max_epochs
        last = out / f'epoch_{epochs}.pth'
        if not (last.is_file() and is_validated(out, epochs)):
            last.unlink(missing_ok=True)  # it was stopped before its validation
            log = self.work_dir / f'{name}.log'
            _train(log, config, '--work-dir', out, '--resume')
        return last

    def row(self, name: str) -> dict[str, str]:
        """Return the row of a run in the table: its last validation, from its log."""
        metrics = read_metrics(self.work_dir / name)[-1]
        config = self.runs['teacher' if name == 'teacher' else 'student']
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = build_detector(config)
        return {
            'model': self.title(name),
            'box mAP': f'{metrics["coco/bbox_mAP"]:.3f}',
            'AP50': f'{metrics["coco/bbox_mAP_50"]:.3f}',
            'parameters': f'{sum(p.numel() for p in model.parameters()):,}',
            'minutes': f'{training_minutes(read_scalars(self.work_dir / name)):.1f}',
        }


PAIR = 'faster-rcnn_r18-half-to-r18-{}_fpn_{}.py'
DEMOS = {
    'digits': Demo(
        Path('work_dirs/demo'),
        {
            'teacher': 'ctkd_mm::demo/faster-rcnn_r18-half_fpn_digits.py',
            'student': 'ctkd_mm::demo/faster-rcnn_r18-eighth_fpn_digits.py',
            'ctkd': 'ctkd_mm::demo/ctkd_' + PAIR.format('eighth', 'digits'),
        },
    ),
    'bccd': Demo(
        Path('work_dirs/bccd'),
        {
            'teacher': 'ctkd_mm::bccd/faster-rcnn_r18-half_fpn_bccd.py',
            'student': 'ctkd_mm::bccd/faster-rcnn_r18-sixteenth_fpn_bccd.py',
            'ctkd-zscore': 'ctkd_mm::bccd/ctkd-zscore_'
            + PAIR.format('sixteenth', 'bccd'),
        },
    ),
}


def run_demo(name: str = 'digits') -> list[str]:
    """Train the three models of a demo, and compare them.

    What is complete is kept, and an interrupted training goes on from its last
    checkpoint: the demo can be called again at any time, in the same folder.

    Args:
        name: A key of ``DEMOS``.

    Returns:
        The table and the path of a page with curves and pictures, as lines.

    Raises:
        FileNotFoundError: If the photographs are missing.
        RuntimeError: If a training fails; with the end of its output.
    """
    demo = DEMOS[name]
    print(f'\n=== 1/4 preparing the set: {name}', flush=True)
    demo.prepare()
    for run in demo.runs:
        print(f'\n=== 2/4 training the {demo.title(run)}', flush=True)
        last = demo.train(run)
    print('\n=== 3/4 extracting the student', flush=True)
    extract_student(last)
    print('\n=== 4/4 drawing curves and detections', flush=True)
    work_dirs = [demo.work_dir / run for run in demo.runs]
    page = write_report(work_dirs, demo.work_dir / 'report.html')
    table = format_table([*map(demo.row, demo.runs)])
    return [f'\n{table}\n\ncurves and detections: {page}']


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


def _train(log: Path, *args: object) -> None:
    """Train: all output goes to the log, progress to the screen as well."""
    command = [sys.executable, '-m', 'ctkd_mm', 'train', *map(str, args)]
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
        raise RuntimeError(f'{tail}\ntraining failed; all of its output: {log}')
