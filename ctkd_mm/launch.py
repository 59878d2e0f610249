"""Launchers and ``--amp`` of MMDetection's tools on hosts without an accelerator."""

from __future__ import annotations

import atexit
import os
import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device


def adapt_to_host(tool: Path) -> None:
    """Make a tool of MMDetection, about to run with ``sys.argv``, work on this host.

    Where there is an accelerator only Slurm's port is chosen, unless ``MASTER_PORT``
    is set: MMEngine has one port for all jobs. On other hosts, where MMEngine's
    launchers and ``AmpOptimWrapper`` fail,

    - ``--launcher pytorch|slurm`` makes the process group here, with gloo, and adds
      ``--cfg-options`` that wrap the model for a CPU; a ``model_wrapper_cfg`` and
      ``find_unused_parameters`` of the user's stay in force;
    - ``--amp`` becomes ``--cfg-options`` for :class:`ctkd_mm.amp.CPUAmpOptimWrapper`.

    Args:
        tool: Path of MMDetection's ``train.py`` or ``test.py``.

    Raises:
        KeyError, ValueError: If a variable that the launcher sets is not in the
            environment, as when the tool was not started by it.

    Source: :func:`mmengine.dist.init_dist`, :meth:`mmengine.runner.Runner.wrap_model`.
    """
    # The tool's own parser, so that every spelling it knows is understood.
    args = runpy.run_path(str(tool))['parse_args']()
    if args.launcher == 'slurm':
        os.environ.setdefault('MASTER_PORT', str(_slurm_port()))
    if get_device() != 'cpu':
        return
    options = []
    if args.launcher in ('pytorch', 'slurm'):
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
        _init_gloo(args.launcher, config)
        options += _wrapper_options(config)
    if getattr(args, 'amp', False):
        sys.argv = [word for word in sys.argv if word not in ('--amp', '--am')]
        options += [
            'optim_wrapper.type=ctkd_mm.CPUAmpOptimWrapper',
            'optim_wrapper.loss_scale=dynamic',
        ]
    if options:
        sys.argv += ['--cfg-options', *options]


def _slurm_port() -> int:
    # Below Linux's ephemeral ports; its own for each step of 16, as of 798 jobs.
    job, step = (int(os.environ.get(f'SLURM_{k}_ID', 0)) for k in ('JOB', 'STEP'))
    return 20000 + (16 * job + step % 16) % 12768


def _init_gloo(launcher: str, config: Config) -> None:
    env = os.environ
    if launcher == 'slurm':
        env['RANK'], env['WORLD_SIZE'] = env['SLURM_PROCID'], env['SLURM_NTASKS']
        env['LOCAL_RANK'] = env['SLURM_LOCALID']
        if 'MASTER_ADDR' not in env:
            hosts = ['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']]
            env['MASTER_ADDR'] = subprocess.check_output(hosts, text=True).split()[0]
    dist_cfg = config.get('env_cfg', {}).get('dist_cfg', {})
    timeout = timedelta(seconds=dist_cfg.get('timeout', 1800))
    torch.distributed.init_process_group('gloo', timeout=timeout)
    # Its threads abort the process now and then when they outlive the interpreter.
    atexit.register(torch.distributed.destroy_process_group)


def _wrapper_options(config: Config) -> list[str]:
    options = {'device_ids': None}
    if not config.get('model_wrapper_cfg'):  # what MMEngine does without one
        options['broadcast_buffers'] = False
        unused = config.get('find_unused_parameters', False)
        options['find_unused_parameters'] = unused
    return [f'model_wrapper_cfg.{key}={value}' for key, value in options.items()]
