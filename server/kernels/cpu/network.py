"""Networks of 3×3 convolutions on the CPU, in fp32: what torch computes, to seven digits, several times as fast.

A `Network` takes the weights of a torch network and replaces it. It runs in as many threads as torch would, in memory
of its own, and may be called by several threads at once. The same machine gives the same bytes, however many threads
there are. network.cpp explains how.

Samples are read and written in place, as 8 bits, 16 bits or floats, without intermediate tensors of floats. A chain of
convolutions needs only a few rows of each layer at a time, so a `RowPass` can compute a picture of any height from top
to bottom, in steps, without tiles.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from server.kernels import Layer, Layers
from server.kernels.cpu.binding import Kernel, Samples, view

_KINDS = {"convolution": 0, "srvgg": 1, "rrdbnet": 2}
_TALL = 1 << 16
_LOW = 128
"""Least number of rows of a tile, about."""


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
        unshuffle: int = 1,
        ups: int = 0,
        opaque: bool = False,
    ) -> None:
        """`layers`: the convolutions in the order in which they run. `growth`: channels that each convolution of a
        dense block adds. `unshuffle`, `ups`: of an RRDBNet, what the source is unshuffled by, and how many
        up-convolutions follow its blocks; one that is alone may triple the size: `scale` 3. `opaque`: the network's
        last input is alpha, 1 everywhere. Raises torch.OutOfMemoryError."""
        # Kept alive until the library has copied them.
        tensors = [None if each is None else each.detach().float().contiguous() for layer in layers for each in layer]
        pointers = (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))
        first, last = layers[0][0], layers[-1][0]
        blocks = {"convolution": 0, "srvgg": len(layers) - 2, "rrdbnet": (len(layers) - 4 - ups) // 15}[kind]
        self.channels = first.shape[1] // unshuffle**2 - opaque
        self.out_channels = self.channels if kind == "srvgg" else last.shape[0]
        self.kind = kind
        self.scale = scale
        self.kernel = kernel
        step = scale if kind != "rrdbnet" else 3 if (ups, scale) == (1, 3) else 2
        self.handle = kernel.library.winograd_open(
            _KINDS[kind], self.channels, opaque, first.shape[0], growth, blocks, step, unshuffle, ups, pointers
        )
        if not self.handle:
            raise torch.OutOfMemoryError("no memory for the network's weights")
        _when_gone(self, kernel.library.winograd_close, self.handle)

    @classmethod
    def of(cls, kernel: Kernel, layers: Layers) -> "Network":
        """Raises torch.OutOfMemoryError."""
        return cls(
            kernel,
            layers.kind,
            layers.convolutions,
            scale=layers.scale,
            growth=layers.growth,
            unshuffle=layers.unshuffle,
            ups=layers.ups if layers.kind == "rrdbnet" else 0,
            opaque=layers.opaque,
        )

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) float32 → (N, C, H·scale, W·scale) float32. Raises torch.OutOfMemoryError."""
        n, channels, h, w = image.shape
        assert channels == self.channels and image.dtype is torch.float32 and image.device.type == "cpu"
        result = torch.empty(n, self.out_channels, h * self.scale, w * self.scale)
        for source, target in zip(image, result, strict=True):
            self.into(source.permute(1, 2, 0).numpy(), target.permute(1, 2, 0).numpy())
        return result

    def into(self, samples: Samples, result: Samples, top: int = 0, left: int = 0) -> None:
        """A whole picture at once. `result` is filled with its part of the whole result, from `top` and `left` on. Both
        arrays are as for `RowPass`. Raises torch.OutOfMemoryError."""
        with RowPass(self, samples, samples.shape[0]) as row_pass:
            row_pass.rows(samples.shape[0], result, top, left)

    def bytes_for(self, h: int, w: int) -> int:
        """Memory that a picture of this size takes while it is computed, beside source and result."""
        return int(self.kernel.library.winograd_bytes(self.handle, h, w, torch.get_num_threads()))

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take. Those of a chain, and of one convolution, are kept transformed: seven times as
        much as a checkpoint in fp32. An RRDBNet's take as much as it; seven times that in addition while small pictures
        come one after the other."""
        return int(self.kernel.library.winograd_weights(self.handle))

    def columns_within(self, limit: int) -> int:
        """The width of the widest picture whose row pass takes at most `limit` bytes, whatever its height; 0 for a
        network that is not a chain."""
        if self.kind != "srvgg":
            return 0
        narrow, wide = self.bytes_for(_TALL, 1024), self.bytes_for(_TALL, 2048)
        return max(0, 1024 + (limit - narrow) * 1024 // (wide - narrow))

    def pixels_within(self, limit: int) -> int:
        """Source pixels of the largest tile that takes at most `limit` bytes. For a chain only its columns matter; the
        rows are then those of tiles of very wide pictures."""
        if self.kind == "srvgg":
            return self.columns_within(limit) * _LOW
        small, large = self.bytes_for(512, 1024), self.bytes_for(1024, 1024)
        return max(0, 512 * 1024 + (limit - small) * 512 * 1024 // (large - small))


class RowPass:
    """The run of one picture through a network, from top to bottom. It must be closed. For one thread at a time."""

    def __init__(self, network: Network, samples: Samples, step: int) -> None:
        """`samples`: H × W × C of uint8, uint16 or float32, of any strides; a single channel is used for all. Sides
        are multiples of what the network unshuffles. Integers stand for [0, 1]. `step`: source rows, a multiple
        of 6 or at least H, after multiples of which it can stop if the network is a chain.
        Raises torch.OutOfMemoryError."""
        h, w, channels = samples.shape
        assert channels in (1, network.channels)
        self._network = network
        self._samples = samples  # keeps them alive: they are read during the run
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
        """An alternative to `rows`: run for about `work` multiplications of a plain convolution, or more where it
        cannot stop sooner. `result`, the same at every call, is filled as in `rows`, from `top` and `left` of the whole
        result on. Returns the share of all work that is done: 1 when `result` is complete. Raises
        torch.OutOfMemoryError."""
        share = float(self._library.winograd_slice(self._handle, work, *self._into(result, top, left)))
        if share < 0:
            raise torch.OutOfMemoryError("no memory to plan the network's run")
        return share

    def rows(self, bottom: int, result: Samples, top: int | None = None, left: int = 0) -> None:
        """Run until source row `bottom`: the end of a step, or of the picture. `result`, H × W × C of uint8, uint16 or
        float32 with any strides, is filled with the new part of the whole result, from row `top` (default: where the
        last step ended) and column `left` on; what does not fit into it is dropped. A single channel gets the mean of
        all. Integers are rounded and clamped. Raises torch.OutOfMemoryError."""
        assert self._done < bottom <= self._height
        assert bottom == self._height or bottom % self._strip == 0
        top = self._done * self._network.scale if top is None else top
        self._done = bottom  # a row pass that failed cannot go on
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
    """Not when Python exits, because the device's thread may still run in the library then."""
    finalizer = weakref.finalize(owner, close, handle)
    finalizer.atexit = False
    return finalizer
