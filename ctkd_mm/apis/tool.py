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

from ctkd_mm.checks.explain import explain
from ctkd_mm.compat import stack
from ctkd_mm.engine.launch import adapt_to_host

# What kind of error it is says nothing beside its words.
PLAIN = ValueError, OSError


@dataclass(frozen=True)
class Tool:
    """A tool: parses its options, calls a function, prints what that returns.

    An error ends the process with status 1 and one line: what was not done, and why.

    Args:
        function: Its name below ``ctkd_mm``, imported when the tool is called. It gets
            the options by name; of ``config`` and ``cfg_options`` it gets the config
            that they make, as ``cfg``. It returns lines, or the path that it wrote.
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
        for names, settings in self.options.items():
            parser.add_argument(*names.split(), **settings)
        return parser

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
                cfg = _read_config(args.pop('config'), args.pop('cfg_options', None))
                args['cfg'] = cfg
            found = getattr(import_module(f'ctkd_mm.{module}'), name)(**args)
        except Exception as error:
            kind = f'{type(error).__name__}: ' * (not isinstance(error, PLAIN))
            sys.exit(f'{failed}. {kind}{explain(error, cfg)}')
        print(found if isinstance(found, Path) else '\n'.join(found))


def _read_config(path: str, options: dict | None) -> Config:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    return cfg


def run_mmdet_tool(name: str, argv: Sequence[str] | None) -> None:
    """Run a tool of MMDetection in this process, adapted to the host.

    From Python 3.11 on, an error's traceback ends with the keys that it is about.

    Args:
        name: ``'train.py'`` or ``'test.py'``.
        argv: Arguments without the program name; None takes the process's.

    Raises:
        ImportError: If the OpenMMLab stack is missing or outside the bounds.
        Exception: What the tool raised.
    """
    stack.require_openmmlab()
    import mmdet

    # MMDetection ships its tools. They keep every option as its users know it.
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / name
    sys.argv = [name, *(sys.argv[1:] if argv is None else argv)]
    args = adapt_to_host(tool)
    try:
        runpy.run_path(str(tool), run_name='__main__')
    except Exception as error:
        with suppress(Exception):  # a broken config, or Python < 3.11: no notes
            reason = explain(error, _read_config(args.config, args.cfg_options))
            if reason not in str(error):
                error.add_note(reason)
        raise
