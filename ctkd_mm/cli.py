"""The command-line tools: their options, and the functions that they call."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from ctkd_mm.apis.tool import PAIR, Tool, run_mmdet_tool


def train(argv: Sequence[str] | None = None) -> None:
    """Train a detector: MMDetection's own ``tools/train.py``, all its options.

    ``--teacher`` makes a distillation of it, see
    :func:`ctkd_mm.apis.new_pair.pair_config`. Launchers and ``--amp`` work without a
    GPU too, see :mod:`ctkd_mm.engine.launch`.
    """
    run_mmdet_tool('train.py', argv, PAIR)


def test(argv: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint: MMDetection's own ``tools/test.py``, all its options."""
    run_mmdet_tool('test.py', argv, {})


def _check(cfg: Config) -> list[str]:
    from ctkd_mm.checks.dry_run import check

    return [*check(cfg), f'{Path(cfg.filename).stem} is ready to train']


def _diagnose(runs: list[str]) -> None:
    """Print the verdicts; end with the status that ``--help`` explains."""
    from ctkd_mm.analysis.doctor.diagnose import diagnose_run

    status = 0
    for run in runs:
        try:
            found = diagnose_run(run)
        except (FileNotFoundError, ValueError) as error:
            print(f'{run} cannot be judged. {error}', file=sys.stderr)
            status = 2
            continue
        for suffix, findings in found.items():
            for finding in findings:
                print(f'{run}, tau{suffix}: {finding.verdict}')
                for text in filter(None, (finding.seen, finding.advice)):
                    print(textwrap.indent(textwrap.fill(text, 86), '  '))
                status = max(status, int(finding.verdict != 'healthy'))
    sys.exit(status)


DETECTOR = dict(help='config: path, mmdet::path, or name in the zoo')
RUNS = dict(nargs='+', help='work directories or scalars.json')
CFG_OPTIONS = dict(
    nargs='+',
    action=DictAction,
    metavar='KEY=VALUE',
    help='changes to it, for example model.loss_kd.temperature.tau_start=3',
)
CONFIG = {
    'config': dict(help='what train would be given'),
    **PAIR,
    '--cfg-options': CFG_OPTIONS,
}

check = Tool(
    'cli._check',
    'Start a training, stop before its first iteration',
    CONFIG,
    '{config} cannot train',
)
suggest_temperature = Tool(
    'analysis.suggest_temperature',
    "Suggest a temperature's range and a loss weight from the logits of a pair",
    {
        **CONFIG,
        '--images': dict(type=int, default=16, help='training images to look at'),
        '--student': dict(help='checkpoint; by default as the config starts'),
        '--out': dict(default='tau_curve.png', help='the PNG to write'),
    },
    'No suggestion for {config}',
)
new_pair = Tool(
    'apis.new_pair',
    "Write a distillation config for two of MMDetection's detectors",
    {
        'teacher': DETECTOR,
        'student': DETECTOR,
        '--method': PAIR['--method'],
        '--teacher-ckpt': PAIR['--teacher-ckpt'],
        '-o --out': dict(required=True, help='the config to write'),
    },
)
coco_subset = Tool(
    'apis.coco_subset',
    'Write an annotation file for a part of the images, for a first try',
    {
        'ann_file': dict(help='COCO annotations of the whole set'),
        '--images': dict(type=int, required=True, help='how many to keep'),
        '-o --out': dict(required=True, help='the file to write'),
        '--seed': dict(type=int, default=0, help='of the random choice'),
    },
)
extract_student = Tool(
    'apis.extract_student',
    'Write a student-only checkpoint that MMDetection loads strictly',
    {
        'checkpoint': dict(help='checkpoint of a distillation run'),
        '--out': dict(help='by default the checkpoint, named *_student.pth'),
    },
    'Nothing is written',
)
export_onnx = Tool(
    'apis.export_onnx',
    'Write a student for ONNX Runtime, from pixels to boxes',
    {
        'config': dict(help="the student's, or that of its distillation"),
        '--cfg-options': CFG_OPTIONS,
        'checkpoint': dict(help='of the student, or of its distillation'),
        'image': dict(help='in which the student finds something'),
        '-o --out': dict(required=True, help='the ONNX file to write'),
    },
)
plot_curriculum = Tool(
    'analysis.plot_curriculum',
    "Draw tau and lambda over training from MMEngine's JSON log",
    {'runs': RUNS, '--out': dict(default='curriculum.png', help='the PNG to write')},
)
report = Tool(
    'analysis.write_report',
    'Write one HTML page that compares runs',
    {
        'runs': dict(nargs='+', help='work directories'),
        '--out': dict(default='report.html', help='the page to write'),
    },
    epilog='Relative paths in the configs of the runs count from this folder.',
)
diagnose = Tool(
    'cli._diagnose',
    'Judge how the temperatures of trainings moved, from their logs',
    {'runs': RUNS},
    'Nothing is judged',
    'Exit status: 0 all healthy, 1 not all, 2 a run cannot be judged.',
)
make_demo_data = Tool(
    'demo.make_demo_data',
    'Compose scanned digits into a COCO-format detection set',
    {
        'root': dict(nargs='?', default='work_dirs/demo/data', help='the folder'),
        '--num-train': dict(type=int, help='training scenes'),
        '--num-val': dict(type=int, help='validation scenes'),
        '--image-size': dict(type=int, help='pixels'),
        '--seed': dict(type=int, help='of all random choices'),
    },
    '{root} is not written',
)
demo = Tool(
    'demo.run_demo',
    'Train and compare teacher, student and distilled student',
    {
        'name': dict(
            nargs='?', default='digits', choices=('digits', 'bccd'), help='the set'
        )
    },
    'The demo is not complete',
)
COMMANDS = {
    'train': train,
    'test': test,
    'check': check,
    'suggest': suggest_temperature,
    'new-pair': new_pair,
    'extract': extract_student,
    'export': export_onnx,
    'diagnose': diagnose,
    'report': report,
    'plot': plot_curriculum,
    'subset': coco_subset,
    'demo': demo,
    'demo-data': make_demo_data,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command: ``ctkd_mm COMMAND ...`` or ``python -m ctkd_mm COMMAND ...``.

    Args:
        argv: Arguments without the program name; None takes the process's.
    """
    about = {k: getattr(v, 'description', v.__doc__) for k, v in COMMANDS.items()}
    lines = (f'  {k:<10} {text.splitlines()[0]}' for k, text in about.items())
    parser = argparse.ArgumentParser(
        'ctkd_mm',
        description='commands; each has --help:\n' + '\n'.join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND')
    parser.add_argument('options', nargs=argparse.REMAINDER, metavar='...')
    args = parser.parse_args(argv)
    sys.argv[0] = f'ctkd_mm {args.command}'
    COMMANDS[args.command](args.options)
