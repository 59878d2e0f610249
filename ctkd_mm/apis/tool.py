"""Runs command-line tools: ours, and those of MMDetection."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mmengine.config import Config

from ctkd_mm.apis.new_pair import RECOMMENDED, pair_config
from ctkd_mm.apis.pair_template import methods
from ctkd_mm.checks.explain import explain
from ctkd_mm.compat import stack
from ctkd_mm.engine.launch import adapt_to_host

# What kind of error it is says nothing beside its words.
PLAIN = ValueError, OSError
# What makes a distillation of a detector's own config, see pair_config.
PAIR = {
    '--teacher': dict(
        help='distil from this detector into the one of CONFIG; both a config, '
        'mmdet::path, or name in the zoo'
    ),
    '--method': dict(
        choices=methods(),
        help=f'how to distil: {RECOMMENDED}, or ctkd for sigmoid classes, if not given',
    ),
    '--teacher-ckpt': dict(help="path or URL: the model zoo's if not given"),
}
READ = 'config', 'cfg_options', 'teacher', 'method', 'teacher_ckpt'


@dataclass(frozen=True)
class Tool:
    """A tool: parses its options, calls a function, prints what that returns.

    An error ends the process with status 1 and one line: what was not done, and why.

    Args:
        function: Its name below ``ctkd_mm``, imported when the tool is called. It gets
            the options by name; of ``config``, ``cfg_options`` and ``PAIR`` it gets the
            config that they make, as ``cfg``. It returns lines, or the path it wrote.
        description: What ``--help`` says first.
        options: Arguments of ``add_argument`` by the names of the option, which spaces
            separate.
        failed: What stands before the reason of an error; ``{name}`` is the value of
            an option.
        epilog: What ``--help`` says last.
    """

    function: str
    description: str
    options: dict[str, dict]
    failed: str = '{out} is not written'
    epilog: str | None = None

    def parser(self) -> argparse.ArgumentParser:
        """Make the parser; an option without a default here has the function's."""
        parser = argparse.ArgumentParser(
            description=self.description,
            epilog=self.epilog,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        return _add(self.options, parser)

    def __call__(self, argv: Sequence[str] | None = None) -> None:
        """Run the tool.

        Args:
            argv: Arguments without the program name; None takes the process's.

        Raises:
            SystemExit: With the reason, which is status 1, if the function failed.
        """
        args, cfg = vars(self.parser().parse_args(argv)), None
        failed = self.failed.format(**args)
        module, _, name = self.function.rpartition('.')
        try:
            if 'config' in args:
                cfg = _read_config(**{k: args.pop(k) for k in READ if k in args})
                args['cfg'] = cfg
            found = getattr(import_module(f'ctkd_mm.{module}'), name)(**args)
        except Exception as error:
            kind = f'{type(error).__name__}: ' * (not isinstance(error, PLAIN))
            sys.exit(f'{failed}. {kind}{explain(error, cfg)}')
        print(found if isinstance(found, Path) else '\n'.join(found))


def _add(
    options: dict[str, dict], parser: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    for names, settings in options.items():
        parser.add_argument(*names.split(), **settings)
    return parser


def _read_config(config: str, cfg_options: dict | None = None, **pair: str) -> Config:
    with pair_config(config, **pair) as path:
        cfg = Config.fromfile(path)
    cfg.merge_from_dict(cfg_options or {})
    return cfg


def run_mmdet_tool(
    name: str, argv: Sequence[str] | None, options: dict[str, dict]
) -> None:
    """Run a tool of MMDetection in this process, adapted to the host.

    From Python 3.11 on, an error's traceback ends with the keys that it is about.

    Args:
        name: ``'train.py'`` or ``'test.py'``.
        argv: Arguments without the program name; None takes the process's.
        options: Which it has beside its own: ``PAIR``, or none.

    Raises:
        ImportError: If the OpenMMLab stack is missing or outside the bounds.
        Exception: What the tool raised.
    """
    stack.require_openmmlab()
    import mmdet

    # MMDetection ships its tools. They keep every option as its users know it.
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / name
    parser = argparse.ArgumentParser(
        name, argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False
    )
    given = sys.argv[1:] if argv is None else argv
    pair, rest = _add(options, parser).parse_known_args(given)
    sys.argv = [name, *rest]
    if options and not {'-h', '--help'}.isdisjoint(rest):
        parser.print_help()
    config = runpy.run_path(str(tool))['parse_args']().config
    with pair_config(config, **vars(pair)) as path:
        sys.argv[sys.argv.index(config)] = path
        args = adapt_to_host(tool)
        try:
            runpy.run_path(str(tool), run_name='__main__')
        except Exception as error:
            with suppress(Exception):  # a broken config, or Python < 3.11: no notes
                reason = explain(error, _read_config(args.config, args.cfg_options))
                if reason not in str(error):
                    error.add_note(reason)
            raise
