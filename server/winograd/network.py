"""Networks of 3×3 convolutions on the CPU, in fp32: what torch computes, to seven digits, several times as fast.

A `Network` takes the weights of a torch network and replaces it. It runs in as many threads as torch would, in memory
of its own that is kept between runs, and may be called by several threads at once. The same machine gives the same
bytes, however many threads there are. winograd.cpp says how.
"""

import ctypes
import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from server.winograd.build import Unusable, library

Layer = tuple[Tensor, Tensor, Tensor | None]
"""Weight (out, in, 3, 3), bias, and slopes for negative results (PReLU), of a convolution; no slopes, no activation."""

_KINDS = {"convolution": 0, "srvgg": 1, "rrdbnet": 2}
_OUT_OF_MEMORY = 1
_WRONG = 1e-4


@dataclass(frozen=True)
class Kernel:
    """The library, loaded."""

    target: str
    """Instruction set."""
    library: ctypes.CDLL

    def release_memory(self) -> None:
        """Give back what is kept for the next run."""
        self.library.winograd_release()


@functools.cache
def load(folder: Path | None = None) -> Kernel | Unusable:
    """The library, built on first use, or the reason why there is none; the same answer for as long as we run.
    `folder`: where it is kept, instead of the user's cache."""
    try:
        path, target = library(folder)
        kernel = Kernel(target, _open(path))
    except Unusable as error:
        return error
    except OSError as error:
        return Unusable(f"it can't be loaded: {error}")
    if not _is_right(kernel):
        return Unusable("it computes wrong results")
    return kernel


class Network:
    """One network, ready to run."""

    def __init__(
        self,
        kernel: Kernel,
        kind: Literal["convolution", "srvgg", "rrdbnet"],
        layers: Sequence[Layer],
        *,
        scale: int,
        growth: int = 0,
    ) -> None:
        """`layers`: the convolutions in the order in which they run. `growth`: channels that each convolution of a
        dense block adds. Raises torch.OutOfMemoryError."""
        # Held until the library has copied them.
        tensors = [None if each is None else each.detach().float().contiguous() for layer in layers for each in layer]
        pointers = (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))
        first, last = layers[0][0], layers[-1][0]
        blocks = {"convolution": 0, "srvgg": len(layers) - 2, "rrdbnet": (len(layers) - 6) // 15}[kind]
        self._channels = first.shape[1] // (4 // scale) ** 2 if kind == "rrdbnet" else first.shape[1]
        self._out_channels = self._channels if kind == "srvgg" else last.shape[0]
        self._scale = scale
        self._kernel = kernel
        self._handle = kernel.library.winograd_open(
            _KINDS[kind], self._channels, first.shape[0], growth, blocks, scale, pointers
        )
        if not self._handle:
            raise torch.OutOfMemoryError("no memory for the network's weights")
        weakref.finalize(self, kernel.library.winograd_close, self._handle)

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) float32 → (N, C, H·scale, W·scale) float32. Raises torch.OutOfMemoryError."""
        n, channels, h, w = image.shape
        assert channels == self._channels and image.dtype is torch.float32 and image.device.type == "cpu"
        image = image.contiguous()
        result = torch.empty(n, self._out_channels, h * self._scale, w * self._scale)
        for source, target in zip(image, result, strict=True):
            code = self._kernel.library.winograd_run(
                self._handle, source.data_ptr(), h, w, target.data_ptr(), torch.get_num_threads()
            )
            if code == _OUT_OF_MEMORY:
                raise torch.OutOfMemoryError(f"no memory for {self.bytes_for(h, w) >> 20} MiB of feature maps")
            assert code == 0, f"{w}×{h} does not fit the network"
        return result

    def bytes_for(self, h: int, w: int) -> int:
        """Memory that a picture of this size takes while it is computed, beside source and result."""
        return int(self._kernel.library.winograd_bytes(self._handle, h, w, torch.get_num_threads()))


def _open(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    found.winograd_open.argtypes = [number] * 6 + [ctypes.POINTER(pointer)]
    found.winograd_open.restype = pointer
    found.winograd_close.argtypes = [pointer]
    found.winograd_close.restype = None
    found.winograd_run.argtypes = [pointer, pointer, number, number, pointer, number]
    found.winograd_bytes.argtypes = [pointer, number, number, number]
    found.winograd_bytes.restype = ctypes.c_size_t
    found.winograd_release.restype = None
    return found


def _is_right(kernel: Kernel) -> bool:
    """A small convolution, against torch: compilers have been wrong before."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 5, 3, 3, generator=generator) / 7
    bias, slope = torch.randn(2, 20, generator=generator)
    image = torch.randn(1, 5, 11, 14, generator=generator)
    expected = functional.prelu(functional.conv2d(image, weight, bias, padding=1), slope)
    result = Network(kernel, "convolution", [(weight, bias, slope)], scale=1)(image)
    return bool((result - expected).abs().max() < _WRONG)
