"""Networks on the kernels of launches.py: which convolution reads and writes which buffer.

NOTE: nothing of this has run on a GPU. The tests run it in Triton's interpreter, which computes what the kernels say,
and compile it for several GPUs. `BLOCKS` is estimated; benchmarks/gpu_first.py tries others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from server.kernels import Layer, Layers
from server.kernels.cuda import launches

LEAST_CAPABILITY = (8, 0)
"""Older GPUs have no matrix instructions that Triton uses: it would compute with ordinary ones, and spill registers."""
UNIT = 16
"""Channels of all maps are multiples of it: so does a matrix instruction take them."""
_TOPS = {torch.uint8: 255, torch.int16: 65535}
_BLACK = 1 / 512
_WIDTH = 128
"""Pixels of a program of `unpack` and `finish`."""


@dataclass(frozen=True)
class Block:
    """How a convolution is divided."""

    columns: int
    """Pixels of a row that one program computes."""
    channels: int
    """Of the source, for a step; a divisor of all."""
    warps: int
    stages: int
    """Steps whose loads are under way at a time."""
    cached: bool = True
    """Whether pixels go through the multiprocessor's own cache."""


BLOCKS = {16: Block(128, 32, 8, 3), 32: Block(128, 32, 8, 3), 64: Block(128, 16, 8, 4)}
"""By the result's channels, rounded up to a power of two. With more channels a step, 64 spill registers."""
HOPPER = BLOCKS | {64: Block(128, 32, 8, 3)}
"""The same for compute capability 9.0, whose matrix instructions take the weights from shared memory."""
_NARROW = 64
"""Of maps that are no wider, programs compute so many pixels of a row, with half the warps."""
_ROWS = (32, 16, 8, 4)
"""Rows of a program. The more there are, the less is loaded and computed twice; but all multiprocessors need work."""


@dataclass(frozen=True)
class Weights:
    """Of a convolution, as `launches.convolve` takes them."""

    weight: Tensor
    bias: Tensor
    slope: Tensor | None
    kept: int
    """Channels of the result that are written."""

    @property
    def channels(self) -> int:
        """Of the source."""
        return int(self.weight.shape[1])

    @property
    def width(self) -> int:
        """Channels that are computed: a power of two."""
        return int(self.weight.shape[2])


@dataclass(frozen=True)
class Buffer:
    pitch: int
    """Channels of a pixel."""
    level: int = 1
    """Its sides, in those of the source after unshuffling."""
    floats: bool = False
    """Of fp32, whatever the network's precision."""


@dataclass(frozen=True)
class Step:
    """A convolution from buffer to buffer."""

    weights: Weights
    source: str
    target: str
    first: int = 0
    """Channel of the target's pixels from which on it writes."""
    near: str | None = None
    far: str | None = None
    share: float = 1.0


class Network:
    """For the device's thread. The same tile gives the same bytes in any batch."""

    def __init__(self, layers: Layers, dtype: torch.dtype, device: torch.device) -> None:
        self.kind, self.scale = layers.kind, layers.scale
        self.dtype, self.device = dtype, device
        self.capability, self._processors = (9, 0), 1  # of what is only compiled or interpreted
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            self.capability = properties.major, properties.minor
            self._processors = properties.multi_processor_count
        self.unshuffle = 4 // layers.scale if layers.kind == "rrdbnet" else 1
        self.buffers: dict[str, Buffer] = {"source": Buffer(_padded(3 * self.unshuffle**2))}
        convolutions = iter(layers.convolutions)
        if layers.kind == "srvgg":
            self.steps = list(self._chain(convolutions, len(layers.convolutions)))
        else:
            self.steps = list(self._dense(convolutions, (len(layers.convolutions) - 6) // 15, layers.growth))
        self._last_use = {name: index for index, step in enumerate(self.steps) for name in _names(step)}

    def _chain(self, layers: Iterator[Layer], count: int) -> Iterator[Step]:
        source, segments = "source", [3]
        for index in range(count):
            layer = next(layers)
            weights = self._weights(layer, segments)
            target = "result" if index == count - 1 else ("even", "odd")[index % 2]
            self.buffers[target] = Buffer(_padded(weights.kept))
            yield Step(weights, source, target)
            source, segments = target, [layer[0].shape[0]]

    def _dense(self, layers: Iterator[Layer], blocks: int, growth: int) -> Iterator[Step]:
        """Each dense block reads and extends one buffer. Its result is the start of the next one's; the third writes
        over the input of all three, after adding it pixel by pixel."""
        first = next(layers)
        features = first[0].shape[0]
        wide = _padded(features)
        entry = self._weights(first, [3 * self.unshuffle**2])
        dense = Buffer(wide + 4 * _padded(growth))
        self.buffers |= {"a": dense, "b": dense, "c": dense, "features": Buffer(wide), "body": Buffer(wide)}
        yield Step(entry, "source", "features")
        yield Step(entry, "source", "a")
        for _ in range(blocks):
            for here, there in (("a", "b"), ("b", "c"), ("c", "a")):
                segments = [features]
                for index in range(4):
                    at = wide + index * _padded(growth)
                    yield Step(self._weights(next(layers), segments), here, here, at)
                    segments = [*segments, growth]
                far = "a" if there == "a" else None
                yield Step(self._weights(next(layers), segments), here, there, near=here, far=far, share=0.2)
        yield Step(self._weights(next(layers), [features]), "a", "body", near="features")
        self.buffers |= {"up1": Buffer(wide, 2), "up2": Buffer(wide, 4), "fine": Buffer(wide, 4)}
        self.buffers["result"] = Buffer(4, 4, floats=True)
        for source, target in (("body", "up1"), ("up1", "up2"), ("up2", "fine")):
            yield Step(self._weights(next(layers), [features]), source, target)
        yield Step(self._weights(next(layers), [features], kept=3), "fine", "result")

    def _weights(self, layer: Layer, segments: list[int], kept: int | None = None) -> Weights:
        """`segments`: the channels of the source, in parts that each begin at a multiple of UNIT."""
        weight, bias, slope = layer
        out = weight.shape[0]
        width = max(UNIT, 1 << (out - 1).bit_length())
        parts = []
        for part in torch.split(weight.detach().float(), segments, dim=1):
            parts.append(torch.nn.functional.pad(part, (0, 0, 0, 0, 0, -part.shape[1] % UNIT, 0, width - out)))
        together = torch.cat(parts, 1).permute(2, 3, 1, 0).reshape(9, -1, width)

        def vector(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(values.detach().float(), (0, width - out)).contiguous().to(self.device)

        return Weights(
            together.contiguous().to(self.device, self.dtype),
            vector(bias),
            None if slope is None else vector(slope),
            kept or _padded(out),
        )

    @property
    def weight_bytes(self) -> int:
        return sum(each.weights.weight.nbytes for each in self.steps)

    def __call__(self, samples: Tensor) -> Tensor:
        """Integer samples, N × H × W × 1 or 3, uint8 or int16 with the bits of uint16, → what `finish` takes."""
        n, height, width, channels = samples.shape
        h, w = height // self.unshuffle, width // self.unshuffle
        kept: dict[str, Tensor] = {}
        source = self._made("source", n, h, w, kept)
        pitch = self.buffers["source"].pitch
        launches.unpack[_grid(w, _WIDTH, h, 1, n)](
            samples,
            source,
            h,
            w,
            CHANNELS=channels,
            TOP=_TOPS[samples.dtype],
            STEP=self.unshuffle,
            PITCH=pitch,
            BLOCK=1 << (pitch - 1).bit_length(),
            COLUMNS=_WIDTH,
            num_warps=4,
            enable_fp_fusion=True,
        )
        for index, step in enumerate(self.steps):
            self.launch(step, kept, n, h, w)
            for name in [name for name in kept if self._last_use[name] == index and name != "result"]:
                del kept[name]  # its memory is used again by what is launched later
        return kept["result"]

    def launch(self, step: Step, kept: dict[str, Tensor], n: int, h: int, w: int, block: Block | None = None) -> None:
        """One convolution. `kept`: the buffers so far. `h`, `w`: of the source after unshuffling."""
        weights, target = step.weights, self.buffers[step.target]
        made = self._made(step.target, n, h, w, kept)
        near, far = (kept[name] if name else made for name in (step.near, step.far))
        height, width = h * target.level, w * target.level
        block = block or block_of(weights, width, self.capability)
        rows = self._rows(-(-width // block.columns) * n, height)
        launches.convolve[_grid(width, block.columns, height, rows, n)](
            kept[step.source],
            weights.weight,
            weights.bias,
            weights.bias if weights.slope is None else weights.slope,
            near,
            far,
            made,
            height,
            width,
            rows,
            3 * (weights.channels // block.channels),
            **constants(step, self.buffers, block),
            num_warps=block.warps,
            num_stages=block.stages,
            enable_fp_fusion=True,
        )

    def finish(
        self,
        features: Tensor,
        samples: Tensor,
        index: int,
        rows: slice,
        columns: slice,
        dtype: torch.dtype,
        seen: Tensor,
    ) -> Tensor:
        """The kept part of the result of tile `index`, H × W × C of uint8, int16 with the bits of uint16, or float32.
        `samples`: what `features` was made of. `seen`: int32, N × 3, zeros before; see `overflowed`."""
        _, height, width, channels = samples.shape
        shape = rows.stop - rows.start, columns.stop - columns.start, channels
        out = torch.empty(shape, dtype=dtype, device=samples.device)
        launches.finish[_grid(shape[1], _WIDTH, shape[0], 1, 1)](
            features,
            samples,
            out,
            seen,
            index,
            height,
            width,
            rows.start,
            columns.start,
            shape[1],
            SCALE=self.scale,
            PITCH=self.buffers["result"].pitch,
            SHUFFLED=self.kind == "srvgg",
            CHANNELS=channels,
            TOP=_TOPS[samples.dtype],
            OUT_TOP=_TOPS.get(dtype, 0),
            COLUMNS=_WIDTH,
            num_warps=4,
            enable_fp_fusion=True,
        )
        return out

    def overflowed(self, seen: Tensor) -> Tensor:
        """A byte for each tile, from what `finish` has seen: 1 where the result is not finite, or black where the
        source is not."""
        levels = seen[:, 1:].view(torch.float32)
        return ((seen[:, 0] > 0) | ((levels[:, 0] < _BLACK) & (levels[:, 1] > 8 * _BLACK))).to(torch.uint8)

    def _rows(self, beside: int, height: int) -> int:
        """Of each program, where so many programs compute the same rows. It changes no bytes."""
        return next((rows for rows in _ROWS if beside * -(-height // rows) >= 2 * self._processors), _ROWS[-1])

    def _made(self, name: str, n: int, h: int, w: int, kept: dict[str, Tensor]) -> Tensor:
        if name not in kept:
            buffer = self.buffers[name]
            kept[name] = torch.empty(
                (n, h * buffer.level, w * buffer.level, buffer.pitch),
                dtype=torch.float32 if buffer.floats else self.dtype,
                device=self.device,
            )
        return kept[name]


def constants(step: Step, buffers: dict[str, Buffer], block: Block) -> dict[str, Any]:
    """What a kernel is compiled for."""
    source, target, weights = buffers[step.source], buffers[step.target], step.weights
    return {
        "CIN": weights.channels,
        "N": weights.width,
        "COUT": weights.kept,
        "X_PITCH": source.pitch,
        "Y_PITCH": target.pitch,
        "Y_FIRST": step.first,
        "NEAR_PITCH": buffers[step.near].pitch if step.near else 0,
        "FAR_PITCH": buffers[step.far].pitch if step.far else 0,
        "ENLARGE": target.level // source.level,
        "ACTIVE": weights.slope is not None,
        "RESIDUALS": (step.near is not None) + (step.far is not None),
        "SHARE": step.share,
        "COLUMNS": block.columns,
        "BK": block.channels,
        "CACHE": ".ca" if block.cached else "",
    }


def block_of(weights: Weights, width: int, capability: tuple[int, int]) -> Block:
    """`width`: of the map."""
    block = (HOPPER if capability[0] == 9 else BLOCKS)[min(weights.width, 64)]
    channels = block.channels
    while weights.channels % channels:
        channels //= 2
    if width <= _NARROW < block.columns:
        return replace(block, columns=_NARROW, channels=channels, warps=block.warps // 2)
    return replace(block, channels=channels)


def _padded(channels: int) -> int:
    return -(-channels // UNIT) * UNIT


def _names(step: Step) -> list[str]:
    return [name for name in (step.source, step.target, step.near, step.far) if name]


def _grid(width: int, columns: int, height: int, rows: int, n: int) -> tuple[int, int, int]:
    return -(-width // columns), -(-height // rows), n
