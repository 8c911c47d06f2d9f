"""A diffusion model's autoencoder for pictures of any size, in parts without visible seams.

Its normalisations average over the whole picture and its attention uses all of it, so independent parts would have
different tones. Here the layers of the lowest resolution, with the attention, always run on the whole picture, which is
small there. The finer layers run in parts, whose normalisations all use the same statistics, measured beforehand on
patches spread evenly over the picture. With given statistics only convolutions are left, so a part with a margin of
their receptive radius is equal to that part of the whole.
"""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn

from server.engine.cuda import tf32
from server.engine.device import Halving, unless_out_of_memory
from server.errors import OutOfMemory

_TILE = 1024
_SMALLEST_TILE, _LARGEST_TILE = 512, 2560
_BYTES_PER_PIXEL = 8000
"""Memory of a part at full resolution, estimated: a few times 256 channels in fp32."""
_BYTES_OF_NETWORKS = 10 << 30
_PATCHES = 4
"""Patches along a side. Together they take the memory of one part."""


class Autoencoder:
    """For any thread, but with a lock: the network holds the statistics of the current picture."""

    def __init__(self, net: Any, tile: int = 0) -> None:
        """`net`: an AutoencoderKL of `diffusers`, on its device, in the precision to run in. `tile`: pixels along the
        side of a part, margin included; a picture of at most this size runs as a whole. 0: as the memory allows.
        """
        encoder, decoder = net.encoder, net.decoder
        self.downscale = 2 ** (len(encoder.down_blocks) - 1)
        """Pixels along the side of one sample of a latent."""
        self.channels: int = net.config["latent_channels"]
        self._scale: float = net.config["scaling_factor"]
        self._dtype = net.dtype
        self._tile = Halving(
            "the autoencoder's tile",
            f"a part of {_SMALLEST_TILE} pixels of the diffusion pass",
            net.device,
            tile or _tile_for(net.device),
            _SMALLEST_TILE,
        )
        self._lock = threading.Lock()
        identity = nn.Identity()
        self._enter = _Fine(nn.Sequential(encoder.conv_in, *encoder.down_blocks[:-1]), _radius_of_encoder(net))
        self._encode = nn.Sequential(
            encoder.down_blocks[-1],
            encoder.mid_block,
            encoder.conv_norm_out,
            encoder.conv_act,
            encoder.conv_out,
            net.quant_conv or identity,
        )
        self._decode = nn.Sequential(
            net.post_quant_conv or identity, decoder.conv_in, decoder.mid_block, decoder.up_blocks[0]
        )
        self._leave = _Fine(
            nn.Sequential(*decoder.up_blocks[1:], decoder.conv_norm_out, decoder.conv_act, decoder.conv_out),
            _radius_of_decoder(net),
        )

    @torch.inference_mode()
    def encode(self, picture: Tensor) -> Tensor:
        """1 × 3 × H × W in 0…1, sides multiples of `downscale` → 1 × channels × H / downscale × W / downscale, the
        middle of the distribution. Raises OutOfMemory."""
        image = (picture * 2 - 1).to(self._dtype)
        with self._lock, tf32():
            features = self._in_parts(self._enter, image, 1, self.downscale)
        mean: Tensor = self._whole(self._encode, features).chunk(2, dim=1)[0]
        return mean.float() * self._scale

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Tensor:
        """1 × channels × h × w → 1 × 3 × h · downscale × w · downscale in about 0…1. Raises OutOfMemory."""
        features = self._whole(self._decode, (latent / self._scale).to(self._dtype))
        grow = self.downscale * latent.shape[2] // features.shape[2]
        with self._lock, tf32():
            return self._in_parts(self._leave, features, grow, 1).float() / 2 + 0.5

    def _whole(self, net: nn.Module, features: Tensor) -> Tensor:
        result: Tensor | None = unless_out_of_memory(lambda: net(features))
        if result is None:
            raise OutOfMemory(f"not enough memory on {features.device} for a region of the diffusion pass")
        return result

    def _in_parts(self, fine: "_Fine", image: Tensor, grow: int, shrink: int) -> Tensor:
        """`fine(image)`, whose sides are `grow` / `shrink` times those of `image`, in parts that fit into memory."""

        def run(tile: int) -> Tensor:
            # `tile` is in pixels of the picture, a part in samples of `image`.
            return fine.run(image, max(tile // grow, 2 * fine.radius + shrink), grow, shrink)

        return self._tile.run(run)


def _tile_for(device: torch.device) -> int:
    """By a GPU's total memory, not by its free memory: the same request must give the same bytes."""
    if device.type != "cuda":
        return _TILE
    room = torch.cuda.get_device_properties(device).total_memory - _BYTES_OF_NETWORKS
    side = math.isqrt(max(room, 0) * 3 // 4 // _BYTES_PER_PIXEL) // 64 * 64
    return min(max(side, _SMALLEST_TILE), _LARGEST_TILE)


class _Fine:
    """The layers of high resolution."""

    def __init__(self, net: nn.Sequential, radius: int) -> None:
        """`radius`: the receptive radius, in samples of the input."""
        self.radius = radius
        self._net = net
        self._norms = list(_share_norms(net))

    def run(self, image: Tensor, side: int, grow: int, shrink: int) -> Tensor:
        """In parts of at most `side` × `side` samples, or in one if it is not larger."""
        h, w = image.shape[2:]
        if h * w <= side * side:
            self._each(lambda norm: norm.use_own())
            whole: Tensor = self._net(image)
            return whole
        self._measure(image, side, shrink)
        result: Tensor | None = None
        margin = -(-self.radius // shrink) * shrink
        for (top, bottom), (left, right) in product(*(_parts(length, side, margin, shrink) for length in (h, w))):
            first, start = max(0, top - margin), max(0, left - margin)
            part: Tensor = self._net(image[..., first : bottom + margin, start : right + margin])
            if result is None:
                result = part.new_empty((1, part.shape[1], h * grow // shrink, w * grow // shrink))
            y, x, y_in, x_in = (n * grow // shrink for n in (top, left, top - first, left - start))
            height, width = (n * grow // shrink for n in (bottom - top, right - left))
            result[..., y : y + height, x : x + width] = part[..., y_in : y_in + height, x_in : x_in + width]
        assert result is not None
        return result

    def _measure(self, image: Tensor, side: int, shrink: int) -> None:
        """Measure the statistics of all normalisations on patches."""
        size = max(side // _PATCHES, 3 * self.radius)
        size = -(-size // shrink) * shrink
        h, w = image.shape[2:]
        along = max(2, round(side / size * math.sqrt(h / w)))
        rows = _Sample.of(h, size, along, self.radius, shrink)
        columns = _Sample.of(w, size, max(2, (side // size) ** 2 // len(rows.starts)), self.radius, shrink)
        patches = [
            image[..., top : top + rows.size, left : left + columns.size]
            for top, left in product(rows.starts, columns.starts)
        ]
        self._each(lambda norm: norm.measure(rows, columns))
        self._net(torch.cat(patches))
        self._each(lambda norm: norm.use_measured())

    def _each(self, what: Callable[["_SharedNorm"], None]) -> None:
        for norm in self._norms:
            what(norm)


@dataclass(frozen=True)
class _Sample:
    """Patches along one side of a picture, and the weights of their samples."""

    length: int
    size: int
    starts: tuple[int, ...]
    radius: int

    @classmethod
    def of(cls, length: int, size: int, count: int, radius: int, multiple: int) -> "_Sample":
        """At most `count` patches of `size`, spread evenly from border to border; one for a short side."""
        if length <= size:
            return cls(length, length, (0,), radius)
        count = min(count, math.ceil(length / size))
        room = (length - size) / (count - 1)
        return cls(length, size, tuple(round(n * room) // multiple * multiple for n in range(count)), radius)

    def weights(self, samples: int) -> Tensor:
        """Patches × samples of a patch: how many samples of the picture each of them represents.

        None at the edge of a patch, where it lacks context. Near the picture's own borders, where padding has an
        effect, the samples of half a patch represent only themselves. The others share the rest.
        """
        count = len(self.starts)
        if count == 1:
            return torch.ones(1, samples)
        ratio = samples / self.size
        edge = math.ceil(self.radius * ratio)
        border = max(edge, samples // 2)
        centres = [(start + self.size / 2) * ratio for start in self.starts]
        bounds = [border, *((a + b) / 2 for a, b in pairwise(centres)), self.length * ratio - border]
        weights = torch.zeros(count, samples)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            first = border if number == 0 else edge
            last = samples - (border if number == count - 1 else edge)
            weights[number, first:last] = (stop - start) / (last - first)
        weights[0, :border] = weights[-1, -border:] = 1
        return weights


class _SharedNorm(nn.Module):
    """A GroupNorm whose mean and deviation can be given."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self._norm = norm
        self._samples: tuple[_Sample, _Sample] | None = None
        self._line: tuple[Tensor, Tensor] | None = None
        """Factor and offset of each channel."""

    def use_own(self) -> None:
        """From now on, be a plain GroupNorm."""
        self._samples = self._line = None

    def measure(self, rows: _Sample, columns: _Sample) -> None:
        """In the next run, measure the statistics of all patches together."""
        self._samples = rows, columns

    def use_measured(self) -> None:
        self._samples = None

    def forward(self, features: Tensor) -> Tensor:
        if self._samples is not None:
            self._line = self._measured(features, *self._samples)
        if self._line is None:
            own: Tensor = self._norm(features)
            return own
        scale, shift = self._line
        return torch.addcmul(shift, features, scale)

    def _measured(self, features: Tensor, rows: _Sample, columns: _Sample) -> tuple[Tensor, Tensor]:
        norm = self._norm
        vertical, horizontal = rows.weights(features.shape[2]), columns.weights(features.shape[3])
        weights = torch.einsum("ah,bw->abhw", vertical, horizontal).flatten(0, 1).to(features.device)
        per_group = norm.num_channels // norm.num_groups
        weights = (weights / weights.sum() / per_group)[:, None, None]
        groups = features.float().reshape(len(features), norm.num_groups, per_group, *features.shape[2:])
        mean = (groups * weights).sum((0, 2, 3, 4))
        variance = ((groups - mean[:, None, None, None]).square_() * weights).sum((0, 2, 3, 4))
        scale = norm.weight.float() * torch.rsqrt(variance + norm.eps).repeat_interleave(per_group)
        shift = norm.bias.float() - mean.repeat_interleave(per_group) * scale
        return scale.to(features.dtype)[:, None, None], shift.to(features.dtype)[:, None, None]


def _share_norms(net: nn.Module) -> Iterator[_SharedNorm]:
    """Replace every GroupNorm by a _SharedNorm."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm) and not isinstance(parent, _SharedNorm):
                shared = _SharedNorm(child)
                setattr(parent, name, shared)
                yield shared


def _radius_of_encoder(net: Any) -> int:
    """Two convolutions of 3 × 3 in each block; the halving ones use two samples to the right."""
    radius = 0
    for block in reversed(net.encoder.down_blocks[:-1]):
        radius = 2 * radius + 2 + 2 * len(block.resnets)
    return radius + 1


def _radius_of_decoder(net: Any) -> int:
    """Likewise; after each doubling there is one more."""
    radius = 1
    for block in reversed(net.decoder.up_blocks[1:]):
        if block.upsamplers is not None:
            radius = math.ceil((radius + 1) / 2)
        radius += 2 * len(block.resnets)
    return radius


def _parts(length: int, side: int, margin: int, multiple: int) -> list[tuple[int, int]]:
    """(start, stop) of the kept range of each part, of nearly equal length: multiples of `multiple`, and with both
    margins at most `side` long."""
    most = max(multiple, (side - 2 * margin) // multiple * multiple)
    count = math.ceil(length / most)
    kept = math.ceil(length / count / multiple) * multiple
    return [(start, min(start + kept, length)) for start in range(0, length, kept)]
