"""Launchers and ``--amp`` of MMDetection's tools, on CPUs and GPUs alike."""

from __future__ import annotations

import atexit
import os
import runpy
import subprocess
import sys
import time
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device


def adapt_to_host(tool: Path) -> Namespace:
    """Make a tool of MMDetection, about to run with ``sys.argv``, work on this host.

    - Under Slurm a port is chosen, unless ``MASTER_PORT`` is set: MMEngine has one for
      all jobs.
    - ``--amp`` becomes ``--cfg-options`` for :mod:`ctkd_mm.engine.optim.amp_wrapper`:
      MMEngine's own wrapper refuses CPUs, and mmcv's operators bfloat16.
    - On hosts without an accelerator, where MMEngine's launchers fail, ``--launcher
      pytorch|slurm`` makes the process group here, with gloo, and adds
      ``--cfg-options`` that wrap the model for a CPU; a ``model_wrapper_cfg`` and
      ``find_unused_parameters`` of the user's stay in force.

    Args:
        tool: Path of MMDetection's ``train.py`` or ``test.py``.

    Returns:
        The tool's arguments, as they were.

    Raises:
        KeyError, ValueError: If a variable that the launcher sets is not in the
            environment, as when the tool was not started by it.
        RuntimeError: If gloo finds no address of this host: the environment variable
            GLOO_SOCKET_IFNAME names the network's interface.

    Source: :func:`mmengine.dist.init_dist`, :meth:`mmengine.runner.Runner.wrap_model`.
    """
    # The tool's own parser, so that every spelling it knows is understood.
    args = runpy.run_path(str(tool))['parse_args']()
    if args.launcher == 'slurm':
        os.environ.setdefault('MASTER_PORT', str(_slurm_port()))
    options = []
    on_cpu = get_device() == 'cpu'
    if on_cpu and args.launcher in ('pytorch', 'slurm'):
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
        _init_gloo(args.launcher, config)
        options.append('model_wrapper_cfg.device_ids=None')
        if not config.get('model_wrapper_cfg'):  # what MMEngine does without one
            unused = config.get('find_unused_parameters', False)
            options.append('model_wrapper_cfg.broadcast_buffers=False')
            options.append(f'model_wrapper_cfg.find_unused_parameters={unused}')
    if getattr(args, 'amp', False):
        sys.argv = [word for word in sys.argv if word not in ('--amp', '--am')]
        options += [
            f'optim_wrapper.type=ctkd_mm.{"CPU" * on_cpu}AmpOptimWrapper',
            'optim_wrapper.loss_scale=dynamic',
        ]
    if options:
        sys.argv += ['--cfg-options', *options]
    return args


def leave_group() -> None:
    """Leave the process group of gloo at the end of a process.

    Gloo's threads drop the last tensors some time after a collective is over, for which
    they need the interpreter. If it is gone by then, the process aborts with another
    exit code than its own.

    Source: https://github.com/pytorch/pytorch/issues/190489.
    """
    torch.distributed.destroy_process_group()
    time.sleep(0.2)


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
    atexit.register(leave_group)
