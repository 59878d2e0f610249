"""Builds the emulated device and makes this process have it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SOURCE = Path(__file__).parent / 'cpp' / 'device.cpp'
STAND_INS = dict(  # of torch.cuda, where PyTorch asks for a build with CUDA
    _initialized=True,
    _lazy_init=lambda: None,
    _exchange_device=lambda index: 0,
    _maybe_exchange_device=lambda index: 0,
    is_available=lambda: True,
    is_initialized=lambda: True,
    is_bf16_supported=lambda *args, **kwargs: True,
    is_current_stream_capturing=lambda: False,
    device_count=lambda: 1,
    current_device=lambda: 0,
    set_device=lambda device: None,
    get_device_name=lambda device=None: 'emulated',
    get_device_capability=lambda device=None: (9, 0),
    get_device_properties=lambda device=None: SimpleNamespace(
        name='emulated', major=9, minor=0, total_memory=1 << 36, multi_processor_count=1
    ),
    max_memory_allocated=lambda device=None: 0,
    memory_allocated=lambda device=None: 0,
    reset_peak_memory_stats=lambda device=None: None,
    empty_cache=lambda: None,
    synchronize=lambda device=None: None,
    # What is drawn on the device comes from the CPU's generator.
    manual_seed=lambda seed: None,
    manual_seed_all=lambda seed: None,
)


def build() -> Path:
    """Compile the device for the installed PyTorch, once: 10 s.

    Returns:
        The library, in the cache folder of tools/setup_env.sh.

    Raises:
        RuntimeError: With the compiler's first error.
    """
    torch = Path(find_spec('torch').origin).parent
    sources = sorted(SOURCE.parent.iterdir())
    what = b''.join(path.read_bytes() for path in sources)
    what += f'{version("torch")} {torch}'.encode()
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    cache = Path(os.environ.get('CTKD_MM_CACHE') or Path(home, 'ctkd_mm'))
    library = cache / f'emulated_cuda_{hashlib.sha256(what).hexdigest()[:16]}.so'
    if library.exists():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    part = library.with_suffix(f'.{os.getpid()}')
    done = subprocess.run(
        [
            *(os.environ.get('CXX', 'c++'), '-shared', '-fPIC', '-std=c++20', '-O1'),
            *('-isystem', torch / 'include', SOURCE, '-o', part, f'-L{torch}/lib'),
            *('-lc10', '-ltorch_cpu', f'-Wl,-rpath,{torch}/lib'),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if 'error' in x] or [done.stderr]
        raise RuntimeError(f'{SOURCE.name} does not compile: {lines[0]}')
    part.rename(library)  # another process may have been quicker
    return library


def load() -> None:
    """Give this process the device cuda:0, for good.

    Raises:
        RuntimeError: If it cannot be built or does not work with this PyTorch.
    """
    assert 'torch' not in sys.modules, 'PyTorch asks for its devices only once'
    try:
        ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)
        _patch()
        _try()
    except Exception as error:
        raise RuntimeError(f'PyTorch {version("torch")}: {error!r}') from error


def loaded() -> bool:
    """Whether this process has the emulated device."""
    torch = sys.modules.get('torch')
    stand_in = STAND_INS['is_available']
    return torch is not None and torch.cuda.is_available is stand_in


def _patch() -> None:
    import torch

    for name, value in STAND_INS.items():
        getattr(torch.cuda, name)  # none that PyTorch has given up
        setattr(torch.cuda, name, value)

    # PyTorch makes storages on devices that it was built for.
    def load_storage(
        storage: torch.UntypedStorage, location: str
    ) -> torch.UntypedStorage | None:
        if not location.startswith('cuda'):
            return None
        return torch.ops.emulated_cuda.device_view(_bytes(storage)).untyped_storage()

    def clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        return _bytes(storage).clone().untyped_storage()

    # Before PyTorch's own, of priority 20.
    torch.serialization.register_package(15, lambda storage: None, load_storage)
    torch.UntypedStorage.clone = clone


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    import torch

    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _try() -> None:
    """Do in small what all tests rely on."""
    import torch

    x = torch.ones(2, device='cuda', requires_grad=True)
    with torch.autocast('cuda', torch.float16):
        product = x[None] @ x
    assert product.dtype == torch.float16
    optimizer = torch.optim.SGD([x], lr=1)
    scaler = torch.amp.GradScaler('cuda', init_scale=4)
    scaler.scale(product.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4
    assert x.device == torch.device('cuda', 0)
    assert x.tolist() == [-1, -1]
    try:
        x.detach() + torch.ones(2)
    except RuntimeError as error:
        assert 'cuda:0 and cpu' in str(error)
    else:
        raise AssertionError('cuda:0 + cpu is not refused')
