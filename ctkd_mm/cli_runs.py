"""The command-line tools for what a training left: they call the library."""

from __future__ import annotations

import argparse
import sys
import textwrap

from ctkd_mm.cli import Argv
from ctkd_mm.compat import stack as _stack


def plot_curriculum(argv: Argv = None) -> None:
    """Draw tau and lambda; see :func:`ctkd_mm.analysis.figures.plot_curriculum`."""
    from ctkd_mm.analysis.figures import plot_curriculum

    parser = argparse.ArgumentParser(
        description="Draw tau and lambda over training from MMEngine's JSON log"
    )
    parser.add_argument('runs', nargs='+', help='work directories or scalars.json')
    parser.add_argument(
        '--out', default='curriculum.png', help='the PNG to write; default: %(default)s'
    )
    args = parser.parse_args(argv)
    print(plot_curriculum(args.runs, args.out))


def diagnose(argv: Argv = None) -> None:
    """Judge temperatures by their logs.

    See :func:`ctkd_mm.analysis.doctor.diagnose.diagnose_run`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        SystemExit: With status 0 if all are healthy, 1 if one is not, 2 if a run
            cannot be judged.
    """
    from ctkd_mm.analysis.doctor.diagnose import diagnose_run

    parser = argparse.ArgumentParser(
        description='Judge how the temperatures of trainings moved, from their logs',
        epilog='Exit status: 0 all healthy, 1 not all, 2 a run cannot be judged.',
    )
    parser.add_argument('runs', nargs='+', help='work directories or scalars.json')
    status = 0
    for run in parser.parse_args(argv).runs:
        try:
            found = diagnose_run(run)
        except (FileNotFoundError, ValueError) as error:
            print(f'{run} cannot be judged. {error}', file=sys.stderr)
            status = 2
            continue
        found = found if isinstance(found, dict) else {'': found}
        for suffix, findings in found.items():
            for finding in findings:
                print(f'{run}, tau{suffix}: {finding.verdict}')
                for text in filter(None, (finding.seen, finding.advice)):
                    print(textwrap.indent(textwrap.fill(text, 86), '  '))
                status = max(status, int(finding.verdict != 'healthy'))
    sys.exit(status)


def report(argv: Argv = None) -> None:
    """Compare runs on a page; see :func:`ctkd_mm.analysis.report.page.write_report`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        SystemExit: With status 1 and the reason, if a folder holds no run.
    """
    parser = argparse.ArgumentParser(
        description='Write one HTML page that compares runs',
        epilog='Relative paths in the configs of the runs count from this folder.',
    )
    parser.add_argument('runs', nargs='+', help='work directories')
    parser.add_argument(
        '--out', default='report.html', help='the page to write; default: %(default)s'
    )
    args = parser.parse_args(argv)
    _stack.require_openmmlab()
    from ctkd_mm.analysis.report.page import write_report

    try:
        print(write_report(args.runs, args.out))
    except FileNotFoundError as error:
        sys.exit(f'{args.out} is not written. {error}')


def extract_student(argv: Argv = None) -> None:
    """Write the student; see :func:`ctkd_mm.apis.extract_student.extract_student`."""
    from ctkd_mm.apis.extract_student import extract_student

    parser = argparse.ArgumentParser(
        description='Write a student-only checkpoint that MMDetection loads strictly'
    )
    parser.add_argument('checkpoint', help='checkpoint of a distillation run')
    parser.add_argument('--out', help='default: the checkpoint, named *_student.pth')
    args = parser.parse_args(argv)
    try:
        print(extract_student(args.checkpoint, args.out))
    except (OSError, ValueError) as error:
        sys.exit(f'Nothing is written. {error}')
