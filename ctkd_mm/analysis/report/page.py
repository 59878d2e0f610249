"""Writes a page that compares runs: their scores, their curves, their detections."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any, Sequence

from ctkd_mm.analysis.doctor.diagnose import diagnose_run
from ctkd_mm.analysis.report.detections import IOU_THR, SCORE_THR, ValSet, evaluate_runs
from ctkd_mm.analysis.report.figures import COLORS, draw_figures, place_labels
from ctkd_mm.analysis.report.runs import (
    RunRecord,
    config_differences,
    group_seeds,
    read_runs,
    training_minutes,
)
from ctkd_mm.analysis.run_log import PathLike, short_path
from ctkd_mm.utils.files import write_atomically

PACKAGES = 'ctkd_mm', 'torch', 'mmengine', 'mmdet', 'mmrazor'
TEMPLATE = Path(__file__).with_name('report.html')


def write_report(runs: Sequence[PathLike], out: PathLike) -> Path:
    """Write one HTML page that compares runs, with everything it shows inside it.

    Scores, curves, verdicts, configs and environments come from what MMEngine logged.
    For the detections and the AP of each class, the best checkpoint of every run (the
    last where none was kept as best) and its teacher are evaluated on the run's own
    validation set; where that cannot be done, the page says why.

    Args:
        runs: Work directories; one given again counts once. Relative paths in their
            configs count from the current folder, as in training.
        out: Path of the page.

    Returns:
        The path written.

    Raises:
        FileNotFoundError: If a run has no JSON log or no config.
    """
    from jinja2 import Environment, StrictUndefined  # PyTorch needs it, so it is there

    records = read_runs(runs)
    groups = group_seeds(records)
    colors = {}
    for (name, members), color in zip(groups.items(), cycle(COLORS)):
        colors.update(dict.fromkeys([name, *(run.name for run in members)], color))
    sets, reasons = evaluate_runs(records)
    verdicts = {}
    for run in records:
        with suppress(ValueError):  # nothing was learned
            verdicts[run.name] = diagnose_run(run.path)
    keys = list(dict.fromkeys(key for run in records for key in run.environment))
    # Escaping: configs and class names may hold any text.
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    for function in (score, place_labels, short_path):
        environment.filters[function.__name__] = function
    page = environment.from_string(TEMPLATE.read_text(encoding='utf-8')).render(
        runs=records,
        rows={k: [_table_row(run, sets) for run in v] for k, v in groups.items()},
        colors=colors,
        figures=draw_figures([*groups.values()]),
        verdicts=verdicts,
        sets=sets,
        reasons=reasons,
        score_thr=SCORE_THR,
        iou_thr=IOU_THR,
        differences=config_differences(records),
        environment={k: [r.environment.get(k, '–') for r in records] for k in keys},
        versions={name: import_module(name).__version__ for name in PACKAGES},
    )
    write_atomically(out, page.encode())
    return Path(out)


def _table_row(run: RunRecord, sets: Sequence[ValSet]) -> dict[str, Any]:
    """Collect what the table of runs shows of one run."""
    known = [line for line in run.metrics if run.metric in line] or [{}]
    best, last = max(known, key=lambda line: line.get(run.metric, 0)), known[-1]
    detectors = [d for one in sets for d in one.detectors.values()]
    return dict(
        run=run,
        final=last.get(run.metric),
        best=best.get(run.metric),
        best_step=best.get('step'),
        ap50=next((v for k, v in last.items() if k.endswith('mAP_50')), None),
        parameters=next((d.parameters for d in detectors if run.name in d.runs), None),
        minutes=training_minutes(run.scalars),
    )


def score(value: float | None) -> str:
    """Show three digits; a dash for no value, which is -1 in COCO's metrics."""
    return '–' if value is None or not value >= 0 else f'{value:.3f}'
