"""The command-line tools for data, configs and training: they call the library."""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence

from ctkd_mm.compat import stack as _stack

if TYPE_CHECKING:
    from mmengine.config import Config

Argv = Optional[Sequence[str]]


def train(argv: Argv = None) -> None:
    """Train a detector: MMDetection's own ``tools/train.py``, all its options.

    Its launchers and ``--amp`` work without a GPU too, see
    :mod:`ctkd_mm.engine.launch`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        ImportError: If the OpenMMLab stack is missing or outside the bounds.
    """
    _run_mmdet_tool('train.py', argv)


def test(argv: Argv = None) -> None:
    """Evaluate a checkpoint: MMDetection's own ``tools/test.py``, all its options.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        ImportError: If the OpenMMLab stack is missing or outside the bounds.
    """
    _run_mmdet_tool('test.py', argv)


def check(argv: Argv = None) -> None:
    """Check a config, see :func:`ctkd_mm.checks.dry_run.check`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        SystemExit: With status 1 and the reason, if a training would be refused.
    """
    parser = _config_parser('Start a training, stop before its first iteration')
    args = parser.parse_args(argv)
    _stack.require_openmmlab()
    from ctkd_mm.checks.dry_run import check
    from ctkd_mm.checks.explain import explain

    cfg = _read_config(args)
    try:
        report = check(cfg)
    except Exception as error:
        sys.exit(f'{args.config} cannot train. {explain(error, cfg)}')
    print('\n'.join([*report, f'{args.config} is ready to train']))


def new_pair(argv: Argv = None) -> None:
    """Write a config for a pair; see :func:`ctkd_mm.apis.new_pair.new_pair`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        SystemExit: With status 1 and the reason, if the two are no pair.
    """
    _stack.require_openmmlab()
    from ctkd_mm.apis.new_pair import methods, new_pair

    parser = argparse.ArgumentParser(
        description="Write a distillation config for two of MMDetection's detectors"
    )
    for role in ('teacher', 'student'):
        parser.add_argument(role, help='config: path, mmdet::path, or name in the zoo')
    parser.add_argument(
        '--method', default='ctkd', help=f'default: %(default)s; {", ".join(methods())}'
    )
    parser.add_argument('--teacher-ckpt', help="path or URL; default: the model zoo's")
    parser.add_argument('-o', '--out', required=True, help='the config to write')
    args = parser.parse_args(argv)
    try:
        report = new_pair(**vars(args))
    except Exception as error:
        kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
        sys.exit(f'{args.out} is not written. {kind}{error}')
    config, work_dir = shlex.quote(args.out), f'work_dirs/{Path(args.out).stem}'
    tools = shlex.quote(os.path.relpath(Path(__file__).parents[1] / 'tools'))
    print('\n'.join([*report, f'{args.out} is written. Check, then train:']))
    print(f'  python {tools}/check.py {config}')
    print(f'  python {tools}/train.py {config} --work-dir {shlex.quote(work_dir)}')


def make_demo_data(argv: Argv = None) -> None:
    """Write the digits set; see :func:`ctkd_mm.demo.digits.make_demo_data`."""
    from ctkd_mm.demo.digits import make_demo_data

    parser = argparse.ArgumentParser(
        description='Compose scanned digits into a COCO-format detection set',
        argument_default=argparse.SUPPRESS,  # the defaults are the function's
    )
    parser.add_argument('root', nargs='?', default='work_dirs/demo/data')
    parser.add_argument('--num-train', type=int, help='training scenes')
    parser.add_argument('--num-val', type=int, help='validation scenes')
    parser.add_argument('--image-size', type=int, help='pixels')
    parser.add_argument('--seed', type=int)
    print(make_demo_data(**vars(parser.parse_args(argv))))


def coco_subset(argv: Argv = None) -> None:
    """Write a part of a COCO set; see :func:`ctkd_mm.apis.coco_subset.coco_subset`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        SystemExit: With status 1 and the reason, if nothing is written.
    """
    from ctkd_mm.apis.coco_subset import coco_subset

    parser = argparse.ArgumentParser(
        description='Write an annotation file for a part of the images, for a first try'
    )
    parser.add_argument('ann_file', help='COCO annotations of the whole set')
    parser.add_argument('--images', type=int, required=True, help='how many to keep')
    parser.add_argument('-o', '--out', required=True, help='the file to write')
    parser.add_argument(
        '--seed', type=int, default=0, help='of the choice; default: %(default)s'
    )
    args = parser.parse_args(argv)
    try:
        print('\n'.join(coco_subset(**vars(args))))
    except (ValueError, OSError) as error:
        sys.exit(f'{args.out} is not written. {error}')


def suggest_temperature(argv: Argv = None) -> None:
    """Suggest a range.

    See :func:`ctkd_mm.analysis.suggest.suggest.suggest_temperature`.

    Args:
        argv: Arguments without the program name; None takes the process's.

    Raises:
        SystemExit: With status 1 and the reason, if there is nothing to suggest.
    """
    parser = _config_parser(
        "Suggest tau_init, tau_range and tau_start from the logits of a config's pair"
    )
    parser.add_argument(
        '--images',
        type=int,
        default=16,
        help='how many of the training images to look at; default: %(default)s',
    )
    parser.add_argument(
        '--student', help="checkpoint of the student's; default: as the config starts"
    )
    parser.add_argument(
        '--out', default='tau_curve.png', help='the PNG to write; default: %(default)s'
    )
    args = parser.parse_args(argv)
    _stack.require_openmmlab()
    from ctkd_mm.analysis.suggest.suggest import suggest_temperature
    from ctkd_mm.checks.explain import explain

    cfg = _read_config(args)
    try:
        report = suggest_temperature(cfg, args.images, args.student, args.out)
    except Exception as error:
        sys.exit(f'No suggestion for {args.config}. {explain(error, cfg)}')
    print('\n'.join(report))


def demo(argv: Argv = None) -> None:
    """Train and compare teacher, student and CTKD student on digits."""
    from ctkd_mm.demo.run import run_demo

    argparse.ArgumentParser(
        description='Train and compare teacher, student and CTKD student on digits'
    ).parse_args(argv)
    run_demo()


def _config_parser(description: str) -> argparse.ArgumentParser:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='what tools/train.py would be given')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes to it, for example model.loss_kd.temperature.tau_start=3',
    )
    return parser


def _read_config(args: argparse.Namespace) -> Config:
    from mmengine.config import Config

    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options)
    except Exception as error:
        hint = (
            '. Two files in _base_ set the same key: keep one of them there, and set '
            'what you want of the other in the config itself'
            if 'Duplicate key' in str(error)
            else ''
        )
        sys.exit(f'{args.config} is no config. {type(error).__name__}: {error}{hint}')
    return cfg


def _run_mmdet_tool(name: str, argv: Argv) -> None:
    _stack.require_openmmlab()
    import mmdet

    from ctkd_mm.engine.launch import adapt_to_host

    # MMDetection ships its tools beside its configs; running them keeps every
    # option as its users know it.
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / name
    if not tool.is_file():
        raise ImportError(
            f'{tool} is missing from the installed MMDetection {mmdet.__version__}: '
            'reinstall it from a wheel, or run "mim install mmdet"'
        )
    sys.argv = [name, *(sys.argv[1:] if argv is None else argv)]
    args = adapt_to_host(tool)
    try:
        runpy.run_path(str(tool), run_name='__main__')
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            # While it writes the config of a checkpoint, MMEngine takes Ctrl-C for a
            # mistake in it.
            raise KeyboardInterrupt from None
        with suppress(Exception):  # the config itself may be what is wrong
            _explain(error, args)
        raise


def _explain(error: Exception, args: argparse.Namespace) -> None:
    """Add the keys of the config that an error is about."""
    from mmengine.config import Config

    from ctkd_mm.checks.explain import explain

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    explanation = explain(error, cfg)
    if explanation == str(error):
        return
    if sys.version_info >= (3, 11):
        error.add_note(explanation)  # the traceback ends with it
    else:
        print(explanation, file=sys.stderr)
