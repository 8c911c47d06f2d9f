"""RRDBNet, ESRGAN's and Real-ESRGAN's large network: residual-in-residual dense blocks (arXiv:1809.00219).

Its blocks are basicsr's (`basicsr/archs/rrdbnet_arch.py`, Apache-2.0, Xintao Wang). RealESRGAN_x4plus has 23 of them,
x4plus_anime_6B has 6; x2plus unshuffles the pixels first and then is the same network. The community's have another
number of up-convolutions (none for ×1, four for ×16), other widths and other channels, and three sets of names:
`body.0.rdb1.conv1` (basicsr), `RRDB_trunk.0.RDB1.conv1` (BSRGAN) and `model.1.sub.0.RDB1.conv1.0` (ESRGAN of 2018).
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from server.kernels import Layer, Layers
from server.models.base import Channels, ModelInfo, StateDict, channels_of, filled, for_pictures, to_network
from server.models.basicsr_shim import RRDB

NAME = "rrdbnet"
_TILE = 256
# The receptive radius is about 350 pixels, so tiles are never exact. Pixels beyond this halo change a result by less
# than neighbouring pixels differ, and blending hides it: see tests/engine/test_engine.py.
_HALO = 32
_BLEND = 8

_SLOPE = 0.2  # of the class's leaky ReLUs
_MOST_UPS = 4

_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5])\.(\w+)", r"body.\1.rdb\2.conv\3.\4"),
        (r"trunk_conv\.(\w+)", r"conv_body.\1"),
        (r"upconv(\d+)\.(\w+)", r"conv_up\1.\2"),
        (r"HRconv\.(\w+)", r"conv_hr.\1"),
        (r"model\.0\.(weight|bias)", r"conv_first.\1"),
        (r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(\w+)", r"body.\1.rdb\2.conv\3.\4"),
        (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    )
)
"""Keys of the other two dialects, and basicsr's. The last layers of the oldest are counted: see `_renamed`."""


class Net(nn.Module):
    """As basicsr's RRDBNet, for any number of up-convolutions."""

    def __init__(
        self, inputs: int, outputs: int, features: int, blocks: int, growth: int, unshuffle: int, ups: int
    ) -> None:
        super().__init__()
        self.unshuffle, self.ups = unshuffle, ups
        self.conv_first = _convolution(inputs, features)
        self.body = nn.Sequential(*(RRDB(features, growth) for _ in range(blocks)))
        self.conv_body = _convolution(features, features)
        for index in range(ups):
            setattr(self, f"conv_up{index + 1}", _convolution(features, features))
        self.conv_hr = _convolution(features, features)
        self.conv_last = _convolution(features, outputs)

    def forward(self, image: Tensor, step: int = 2) -> Tensor:
        """`step`: how often an up-convolution repeats each sample, along each side."""
        features = functional.pixel_unshuffle(image, self.unshuffle) if self.unshuffle > 1 else image
        features = self.conv_first(features)
        features = features + self.conv_body(self.body(features))
        for index in range(self.ups):
            features = functional.interpolate(features, scale_factor=step, mode="nearest")
            features = functional.leaky_relu(getattr(self, f"conv_up{index + 1}")(features), _SLOPE, inplace=True)
        features = functional.leaky_relu(self.conv_hr(features), _SLOPE, inplace=True)
        result: Tensor = self.conv_last(features)
        return result


def detect(state: StateDict) -> ModelInfo | None:
    """The first convolution's channels tell what is unshuffled, the names of the others how many there are."""
    state = _renamed(state)
    needed = ("conv_first", "body.0.rdb1.conv1", "conv_body", "conv_hr", "conv_last")
    if any(f"{name}.weight" not in state for name in needed) or any(".conv1x1." in key for key in state):
        return None  # ESRGAN+ has the latter
    first, last = state["conv_first.weight"], state["conv_last.weight"]
    ups = sum(1 for key in state if re.fullmatch(r"conv_up\d+\.weight", key))
    outputs = last.shape[0]
    unshuffle = next((u for u in (2, 4) if first.shape[1] == outputs * u * u and u <= 2**ups), 1)
    if ups > _MOST_UPS:
        return None
    arguments = {
        "num_in_ch": first.shape[1] // unshuffle**2,
        "num_out_ch": outputs,
        "scale": 2**ups // unshuffle,
        "num_feat": first.shape[0],
        "num_block": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body.")),
        "num_grow_ch": state["body.0.rdb1.conv1.weight"].shape[0],
        "unshuffle": unshuffle,
        "ups": ups,
    }
    return _facts(arguments)


def tripled(facts: ModelInfo) -> ModelInfo | None:
    """The facts of the same network at ×3, if it can be: its one up-convolution then repeats samples three times, and
    nothing in its weights tells that from ×2."""
    single = facts.arguments["ups"] == facts.arguments["unshuffle"] == 1
    return _facts({**facts.arguments, "scale": 3}) if single else None


def _facts(arguments: dict[str, int]) -> ModelInfo:
    scale, unshuffle = arguments["scale"], arguments["unshuffle"]
    size = scale * unshuffle  # of the largest maps
    # Unshuffled pixels are fewer positions for the network, so a larger tile with a larger halo takes the same work.
    return ModelInfo(
        scale,
        tile=_TILE * unshuffle,
        halo=_HALO * unshuffle,
        blend=_BLEND * unshuffle,
        pixel_bytes=3 * max(size, 2) ** 2 * 4 * arguments["num_feat"] // unshuffle**2,  # three of the largest maps
        multiple=unshuffle,
        arguments=arguments,
        channels=channels_of(arguments["num_in_ch"], arguments["num_out_ch"]),
    )


def build(state: StateDict, facts: ModelInfo) -> nn.Module:
    arguments = facts.arguments
    unshuffle, ups = arguments["unshuffle"], arguments["ups"]
    state = for_pictures(_renamed(state), facts, "conv_first", "conv_last", 1)
    inputs, outputs = state["conv_first.weight"].shape[1], state["conv_last.weight"].shape[0]
    sizes = arguments["num_feat"], arguments["num_block"], arguments["num_grow_ch"]
    return filled(lambda: Net(inputs, outputs, *sizes, unshuffle, ups), state)


def forward(net: nn.Module, facts: ModelInfo, image: Tensor, dtype: torch.dtype) -> Tensor:
    step = 3 if facts.scale == 3 else 2
    image = to_network(image, facts).to(dtype, memory_format=torch.channels_last)
    result: Tensor = net(image, step)
    return result.float()


def layers(net: Any, facts: ModelInfo) -> Layers:
    convolutions: list[Layer] = []
    ups = sum(1 for index in range(_MOST_UPS) if hasattr(net, f"conv_up{index + 1}"))

    def add(convolution: nn.Conv2d, *, active: bool) -> None:
        assert convolution.bias is not None
        slope = torch.full((convolution.out_channels,), _SLOPE) if active else None
        convolutions.append((convolution.weight, convolution.bias, slope))

    add(net.conv_first, active=False)
    for block in net.body:
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            for index in range(1, 6):
                add(getattr(dense, f"conv{index}"), active=index < 5)
    add(net.conv_body, active=False)
    for index in range(ups):
        add(getattr(net, f"conv_up{index + 1}"), active=True)
    add(net.conv_hr, active=True)
    add(net.conv_last, active=False)
    return Layers(
        "rrdbnet",
        convolutions,
        facts.scale,
        facts.arguments["num_grow_ch"],
        unshuffle=max(1, 2**ups // facts.scale),
        ups=ups,
        opaque=facts.channels is Channels.WITH_ALPHA,
    )


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _renamed(state: StateDict) -> StateDict:
    """With basicsr's keys; keys of other networks stay. In the oldest dialect `model` is a chain of numbered layers:
    after the blocks [repeat, convolution, activation] for each up-convolution, then convolution, activation,
    convolution."""
    numbers = sorted({int(match[1]) for key in state if (match := re.fullmatch(r"model\.(\d+)\.weight", key))})
    ups = len(numbers) - 3
    tail: dict[str, str] = {}
    if numbers and numbers == [0, *range(3, 3 * ups + 1, 3), 3 * ups + 2, 3 * ups + 4]:
        names = [*(f"conv_up{index + 1}" for index in range(ups)), "conv_hr", "conv_last"]
        tail = {f"model.{number}": name for number, name in zip(numbers[1:], names, strict=True)}
    return {_name(key, tail): value for key, value in state.items()}


def _name(key: str, tail: dict[str, str]) -> str:
    layer, _, kind = key.rpartition(".")
    if layer in tail:
        return f"{tail[layer]}.{kind}"
    for pattern, name in _NAMES:
        if match := pattern.fullmatch(key):
            return match.expand(name)
    return key
