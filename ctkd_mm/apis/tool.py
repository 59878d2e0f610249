"""How a command-line tool runs: our own, and MMDetection's."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ctkd_mm.compat import stack


@dataclass(frozen=True)
class Tool:
    """A tool: parses its options, calls a function, prints what that returns.

    An error ends the process with status 1 and one line: what was not done, and why.

    Args:
        function: Gets the options by name; of ``config`` and ``cfg_options`` it gets
            the config that they make, as ``cfg``. Returns lines, or the path that it
            wrote. A name is imported from below ``ctkd_mm`` when the tool is called.
        description: What ``--help`` says first.
        options: Arguments of ``add_argument``, or the help alone, by the names of the
            option, separated by spaces.
        failed: What stands before the reason of an error; ``{name}`` is the value of
            an option.
        epilog: What ``--help`` says last.
    """

    function: Callable[..., Any] | str
    description: str
    options: dict[str, dict | str]
    failed: str = '{out} is not written'
    epilog: str | None = None

    def parser(self) -> argparse.ArgumentParser:
        """Make the parser; an option without a default here has the function's."""
        parser = argparse.ArgumentParser(
            description=self.description,
            epilog=self.epilog,
            argument_default=argparse.SUPPRESS,
        )
        for names, settings in self.options.items():
            if isinstance(settings, str):
                settings = dict(help=settings)
            parser.add_argument(*names.split(), **settings)
        return parser

    def __call__(self, argv: Sequence[str] | None = None) -> None:
        """Run the tool.

        Args:
            argv: Arguments without the program name; None takes the process's.

        Raises:
            SystemExit: With the reason, which is status 1, if the function failed.
        """
        args, cfg, function = vars(self.parser().parse_args(argv)), None, self.function
        failed = self.failed.format(**args)
        try:
            if 'config' in args:
                cfg = _read_config(args.pop('config'), args.pop('cfg_options'))
                args['cfg'] = cfg
            if isinstance(function, str):
                module, _, name = function.rpartition('.')
                function = getattr(import_module(f'ctkd_mm.{module}'), name)
            found = function(**args)
        except Exception as error:
            sys.exit(f'{failed}. {_reason(error, cfg)}')
        print(found if isinstance(found, Path) else '\n'.join(found))


def _read_config(path: str, options: dict | None) -> Config:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    return cfg


def _reason(error: Exception, cfg: Config | None) -> str:
    if cfg is not None:
        from ctkd_mm.checks.explain import explain

        return explain(error, cfg)
    clear = isinstance(error, (ValueError, OSError))
    return str(error) if clear else f'{type(error).__name__}: {error}'


def run_mmdet_tool(name: str, argv: Sequence[str] | None) -> None:
    """Run a tool of MMDetection in this process, adapted to the host.

    An error's traceback names the keys of the config that it is about.

    Args:
        name: ``'train.py'`` or ``'test.py'``.
        argv: Arguments without the program name; None takes the process's.

    Raises:
        ImportError: If the OpenMMLab stack is missing or outside the bounds.
        Exception: What the tool raised.
    """
    stack.require_openmmlab()
    import mmdet

    from ctkd_mm.engine.launch import adapt_to_host

    # MMDetection ships its tools beside its configs; running them keeps every
    # option as its users know it.
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / name
    sys.argv = [name, *(sys.argv[1:] if argv is None else argv)]
    args = adapt_to_host(tool)
    try:
        runpy.run_path(str(tool), run_name='__main__')
    except Exception as error:
        with suppress(Exception):  # the config itself may be what is wrong
            reason = _reason(error, _read_config(args.config, args.cfg_options))
            if reason != str(error) and hasattr(error, 'add_note'):
                error.add_note(reason)  # the traceback ends with it, from Python 3.11
            elif reason != str(error):
                print(reason, file=sys.stderr)
        raise
