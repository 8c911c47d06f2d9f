"""Networks of 3×3 convolutions on the CPU, in fp32: what torch computes, to seven digits, several times as fast.

A `Network` takes the weights of a torch network and replaces it. It runs in as many threads as torch would, in memory
of its own, and may be called by several threads at once. The same machine gives the same bytes, however many threads
there are. winograd.cpp says how.

Samples come and go as they lie in memory, 8 or 16 bits or floats, without tensors of floats on the way. A chain of
convolutions needs but a few rows of each of its layers at a time, so that a `RowPass` can take a picture of any height
through it, in steps, without cutting it into tiles.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from server.kernels.cpu.binding import Kernel, Samples, view

Layer = tuple[Tensor, Tensor, Tensor | None]
"""Weight (out, in, 3, 3), bias, and slopes for negative results (PReLU), of a convolution; no slopes, no activation."""

_KINDS = {"convolution": 0, "srvgg": 1, "rrdbnet": 2}
_TALL = 1 << 16
_LOW = 128
"""Rows that a tile has at least, about."""


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
        self.channels = first.shape[1] // (4 // scale) ** 2 if kind == "rrdbnet" else first.shape[1]
        self.out_channels = self.channels if kind == "srvgg" else last.shape[0]
        self.kind = kind
        self.scale = scale
        self.kernel = kernel
        self.handle = kernel.library.winograd_open(
            _KINDS[kind], self.channels, first.shape[0], growth, blocks, scale, pointers
        )
        if not self.handle:
            raise torch.OutOfMemoryError("no memory for the network's weights")
        _when_gone(self, kernel.library.winograd_close, self.handle)

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) float32 → (N, C, H·scale, W·scale) float32. Raises torch.OutOfMemoryError."""
        n, channels, h, w = image.shape
        assert channels == self.channels and image.dtype is torch.float32 and image.device.type == "cpu"
        result = torch.empty(n, self.out_channels, h * self.scale, w * self.scale)
        for source, target in zip(image, result, strict=True):
            self.into(source.permute(1, 2, 0).numpy(), target.permute(1, 2, 0).numpy())
        return result

    def into(self, samples: Samples, result: Samples, top: int = 0, left: int = 0) -> None:
        """All of a picture at once, and of its result what `result` has room for from there on; both as `RowPass` takes
        them. Raises torch.OutOfMemoryError."""
        with RowPass(self, samples, samples.shape[0]) as row_pass:
            row_pass.rows(samples.shape[0], result, top, left)

    def bytes_for(self, h: int, w: int) -> int:
        """Memory that a picture of this size takes while it is computed, beside source and result."""
        return int(self.kernel.library.winograd_bytes(self.handle, h, w, torch.get_num_threads()))

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take: transformed, seven times that of a checkpoint."""
        return int(self.kernel.library.winograd_weights(self.handle))

    def columns_within(self, limit: int) -> int:
        """How wide a picture may be whose sweep shall take no more than `limit` bytes, however high it is; 0: it can't
        be swept."""
        if self.kind != "srvgg":
            return 0
        narrow, wide = self.bytes_for(_TALL, 1024), self.bytes_for(_TALL, 2048)
        return max(0, 1024 + (limit - narrow) * 1024 // (wide - narrow))

    def pixels_within(self, limit: int) -> int:
        """How large a tile may be that shall take no more than `limit` bytes. Of a chain it takes what its columns do,
        spread over the rows that the tiles of very wide pictures have."""
        if self.kind == "srvgg":
            return self.columns_within(limit) * _LOW
        small, large = self.bytes_for(512, 1024), self.bytes_for(1024, 1024)
        return max(0, 512 * 1024 + (limit - small) * 512 * 1024 // (large - small))


class RowPass:
    """One picture on its way through a network, from top to bottom. To be closed; may be used by one thread at a
    time."""

    def __init__(self, network: Network, samples: Samples, step: int) -> None:
        """`samples`: H × W × C of uint8, uint16 or float32, strides as they are, or one channel to be taken for all;
        sides are multiples of what the network unshuffles. Integers stand for [0, 1]. `step`: source rows, a multiple
        of 6 or at least H, after multiples of which it can stop, if the network is a chain.
        Raises torch.OutOfMemoryError."""
        h, w, channels = samples.shape
        assert channels in (1, network.channels)
        self._network = network
        self._samples = samples  # read while we run
        self._library = network.kernel.library
        self._height, self._done = h, 0
        self._handle = self._library.winograd_begin(
            network.handle, ctypes.byref(view(samples)), h, w, step if step < h else 0, torch.get_num_threads()
        )
        if not self._handle:
            raise torch.OutOfMemoryError(f"no memory for {network.bytes_for(h, w) >> 20} MiB of feature maps")
        self._close = _when_gone(self, self._library.winograd_end, self._handle)
        self._strip = int(self._library.winograd_strip(self._handle))

    def time_slice(self, work: float, result: Samples, top: int = 0, left: int = 0) -> float:
        """Instead of `rows`, for a picture that comes out at the end: go on for about `work` multiplications of a plain
        convolution, or more where it can't stop sooner. `result`, the same at every turn, is what `rows` fills, from
        `top` and `left` of the whole on. The share of all work that has ended: 1 when it is filled. Raises
        torch.OutOfMemoryError."""
        share = float(self._library.winograd_slice(self._handle, work, *self._into(result, top, left)))
        if share < 0:
            raise torch.OutOfMemoryError("no memory to plan the network's run")
        return share

    def rows(self, bottom: int, result: Samples, top: int | None = None, left: int = 0) -> None:
        """Go on until source row `bottom`: the end of a step, or of the picture. `result`: H × W × C of uint8, uint16
        or float32, strides as they are, is filled with what has come out since the last step, from the row `top` of the
        whole result on (default: where the last step ended) and from the column `left`; what it has no room for is
        dropped. One channel holds the mean of all. Integers are rounded and clamped. Raises torch.OutOfMemoryError."""
        assert self._done < bottom <= self._height
        assert bottom == self._height or bottom % self._strip == 0
        top = self._done * self._network.scale if top is None else top
        self._done = bottom  # a sweep that failed is spent
        if self._library.winograd_rows(self._handle, bottom, *self._into(result, top, left)):
            raise torch.OutOfMemoryError("no memory to plan the network's run")

    def _into(self, result: Samples, top: int, left: int) -> tuple[Any, ...]:
        rows, columns, channels = result.shape
        assert self._close.alive and channels in (1, self._network.out_channels)
        return ctypes.byref(view(result)), top, left, rows, columns, torch.get_num_threads()

    def close(self) -> None:
        self._close()

    def __enter__(self) -> "RowPass":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _when_gone(owner: object, close: Callable[[int], None], handle: int) -> "weakref.finalize[Any, Any]":
    """Not at the end of Python, though: a thread of the device may still be in there then."""
    finalizer = weakref.finalize(owner, close, handle)
    finalizer.atexit = False
    return finalizer
