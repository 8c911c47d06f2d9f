"""Our own code for CPUs, several times as fast as torch: networks of 3×3 convolutions, resizing and colour correction.

It is C++, compiled ahead, or by a worker while it works with torch (`build.py`). Where it is not available, torch does
the work.
"""

import functools
from pathlib import Path

import torch
from torch.nn import functional

from server.kernels.cpu.binding import Kernel, open_library
from server.kernels.cpu.build import NotCompiled, Unusable, Wanted, library
from server.kernels.cpu.network import Network

__all__ = ["Kernel", "NotCompiled", "Unusable", "Wanted", "load"]

_WRONG = 1e-4


@functools.cache
def load(folder: Path | None = None, wanted: Wanted = "auto", *, may_compile: bool = True) -> Kernel | Unusable:
    """The library, or the reason why there is none; the same object for the life of the process. `folder`: instead of
    the user's cache. `wanted`: its instruction set. `may_compile`: else it is NotCompiled where it is not there yet."""
    try:
        found = library(folder, wanted, may_compile=may_compile)
        kernel = Kernel(found.target, found.origin, open_library(found.path))
    except Unusable as error:
        return error
    except OSError as error:
        return Unusable(f"it can't be loaded: {error}")
    if not _is_right(kernel):
        return Unusable("it computes wrong results")
    return kernel


def _is_right(kernel: Kernel) -> bool:
    """Compares a small convolution with torch, because compilers have made errors before."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 5, 3, 3, generator=generator) / 7
    bias, slope = torch.randn(2, 20, generator=generator)
    image = torch.randn(1, 5, 11, 14, generator=generator)
    expected = functional.prelu(functional.conv2d(image, weight, bias, padding=1), slope)
    result = Network(kernel, "convolution", [(weight, bias, slope)], scale=1)(image)
    return bool((result - expected).abs().max() < _WRONG)
