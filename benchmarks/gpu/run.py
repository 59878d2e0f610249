"""Fifteen minutes of a GPU: what only one can show, most valuable first.

    python benchmarks/gpu/run.py [--short] [--device cpu] [--out FOLDER]
        [--only PART ...] [--minutes 13]

Each part runs in a process of its own, under its own time limit and within what is left
of ``--minutes``. It prints its tables and writes ``PART.json`` as it ends; what it says
meanwhile goes into ``PART.log``. One that fails or takes too long stops no other.
``summary.json`` is written anew after each. The host needs PyTorch with CUDA and either
an mmcv with CUDA operators or torchvision, see docs/performance.md.

``--short`` runs the same code on small models, anywhere: it proves that nothing is
missing, its figures mean nothing. ``--device cpu`` leaves out what only a GPU has.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What a part's function gets, and seconds that it may take.
R101 = dict(pair='r101-to-r50', size=(800, 1333))
PARTS = {
    'precisions': ('demo_parts.precisions', {}, 120),
    'resume': ('demo_parts.resume', {}, 90),
    'step_2_float32': ('step_parts.step', dict(R101, batch=2, dtype=None), 120),
    'step_2_bfloat16': ('step_parts.step', dict(R101, batch=2, dtype='bfloat16'), 120),
    'step_8_float32': ('step_parts.step', dict(R101, batch=8, dtype=None), 150),
    'step_8_bfloat16': ('step_parts.step', dict(R101, batch=8, dtype='bfloat16'), 150),
    'teacher': ('step_parts.teacher', dict(R101, batch=8, dtype='bfloat16'), 90),
    'waits': ('step_parts.waits', dict(R101, batch=2, dtype='bfloat16'), 90),
    'trace': ('step_parts.trace', dict(R101, batch=2, dtype='bfloat16'), 90),
    'nccl': ('demo_parts.nccl', {}, 90),
    'compile': ('demo_parts.compiled', {}, 240),
}
SMALL = dict(pair='digits', size=(96, 128), batch=2)
# The other steps differ in nothing else; compiling takes a minute at any size.
NOT_SHORT = ('step_2_float32', 'step_8_float32', 'step_8_bfloat16', 'compile')
LEAST = 20  # seconds that are worth starting a part for


def main() -> int:
    """Run the parts, or as one of their processes one.

    Returns:
        0 if all ran and met their goals, else 1.
    """
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument('--short', action='store_true', help='small models')
    found.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    found.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks/gpu'))
    found.add_argument('--only', nargs='+', choices=PARTS, metavar='PART')
    found.add_argument('--minutes', type=float, default=13, help='for all of them')
    found.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
    args = found.parse_args()
    args.out = args.out.resolve()
    if args.part:
        run_here(args)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.only or [n for n in PARTS if not (args.short and n in NOT_SHORT)]
    rows = []
    for row in run_all(names, args):
        rows.append(row)
        (args.out / 'summary.json').write_text(json.dumps(rows, indent=1) + '\n')
    show({'Summary': rows})
    return int(any(row['result'] not in ('done', 'not here') for row in rows))


def run_all(names: list[str], args: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Run parts one after another and print what each found.

    Args:
        names: Of the parts.
        args: The options.

    Yields:
        A row of the summary for each.
    """
    end = time.monotonic() + 60 * args.minutes
    for name in names:
        start = time.monotonic()
        limit = min(PARTS[name][2], end - start)
        found = {'result': 'no time left', 'why': ''}
        if limit >= LEAST:
            print(f'\n== {name}: at most {limit:.0f} s', flush=True)
            found = run_part(name, limit, args)
        seconds = time.monotonic() - start
        print(f'{name}: {found["result"]}. {found["why"]}', flush=True)
        yield {'part': name, 'seconds': f'{seconds:.0f}', **found}


def run_part(name: str, limit: float, args: argparse.Namespace) -> dict[str, str]:
    """Run one part in a process of its own, which is ended at its limit.

    Returns:
        ``result`` and ``why`` it is not 'done'.
    """
    file, log = args.out / f'{name}.json', args.out / f'{name}.log'
    file.unlink(missing_ok=True)
    command = [sys.executable, '-W', 'ignore', __file__, '--part', name]
    command += ['--device', args.device, '--out', str(args.out)]
    command += ['--short'] * args.short
    paths = [str(ROOT), str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
    with log.open('w') as output:
        # A session of its own, whose processes end with it.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {'result': 'out of time', 'why': f'{limit:.0f} s; {log}'}
    if not file.exists():
        lines = log.read_text(errors='replace').strip().splitlines() or ['']
        return {'result': 'failed', 'why': f'{lines[-1]} (code {process.returncode})'}
    found = json.loads(file.read_text())
    show(found['tables'])
    if found.get('not_here'):
        return {'result': 'not here', 'why': found['not_here']}
    rows = [row for rows in found['tables'].values() for row in rows]
    missed = [row['goal'] for row in rows if row.get('') == 'missed']
    return {'result': 'missed' if missed else 'done', 'why': '; '.join(missed)}


def run_here(args: argparse.Namespace) -> None:
    """Run one part in this process and write what it found."""
    from torchvision_ops import prepare

    operators = prepare(args.device)
    from timing import environment

    function, case, _ = PARTS[args.part]
    if args.short and case:
        case = {**case, **SMALL}
    case = argparse.Namespace(
        device=args.device, short=args.short, out=args.out, **case
    )
    module, name = function.split('.')
    found = getattr(import_module(module), name)(case)
    found['environment'] = dict(environment(), operators_of_mmcv=operators)
    file = args.out / f'{args.part}.json'
    part = file.with_suffix('.part')
    part.write_text(json.dumps(found, indent=1) + '\n')
    part.rename(file)  # never half a file


def show(tables: dict[str, list[dict[str, str]]]) -> None:
    """Print tables of rows of texts, by title."""
    for title, rows in tables.items():
        print(f'\n{title}')
        lines = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        for line in lines:
            print('  '.join(x.ljust(w) for x, w in zip(line, widths)).rstrip())
    print(flush=True)


if __name__ == '__main__':
    sys.exit(main())
