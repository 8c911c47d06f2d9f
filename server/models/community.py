"""Every other architecture: those of the package spandrel (MIT), which is the extra `models`.

spandrel gets a state dict that `load_state` has read, and nothing else: its own reader of pickles, and torch.jit, are
never reached. It says what a network needs: sizes, precisions, channels. It knows no halo, and many of its networks
have none that is exact, so tiles get a wide one and are blended.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from server.errors import ModelNotFound
from server.kernels import Layers
from server.models.base import ModelInfo, StateDict, channels_of, luma, to_network

NAME = "community"
INSTALL = "pip install 'upscale-server[models]'"

_TILE = 256
# Measured in tests/models/test_architectures.py for networks of several kinds.
_HALO = 32
_BLEND = 8
_WIDER = 2
"""Halo and blend of networks whose authors would rather not have pictures cut."""
_ALIGNED = 64
"""Tiles of those begin at multiples of this: the windows that they cut a picture into, also after it was reduced eight
times, then begin where those of the whole picture do."""
_PIXEL_BYTES = 8192
"""Of the widest known (attention over 180 features), about. Where it is not enough, tiles are halved."""


class Net(nn.Module):
    """One of spandrel's networks, called as its descriptor does: padded to the sizes that it takes."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.net = descriptor.model
        self.descriptor = descriptor

    def forward(self, image: Tensor) -> Tensor:
        # It takes one picture at a time.
        return torch.cat([self.descriptor(each[None]) for each in image])


def is_here() -> bool:
    """Whether the extra is installed."""
    try:
        import spandrel  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def detect(state: StateDict) -> ModelInfo | None:
    """None without the extra. Raises ModelNotFound for a network that is not one for pictures as they are."""
    if not is_here():
        return None
    import spandrel

    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except Exception:  # NOTE: it recognises by a few keys, and trips over any other content
        return None
    name = descriptor.architecture.id
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        kind = "faces" if descriptor.purpose == "FaceSR" else "pictures with a mask"
        raise ModelNotFound(
            f"the checkpoint is of {name}, a network for {kind}, which this server can't use to enlarge"
        )
    halves = [torch.float16] * descriptor.supports_half + [torch.bfloat16] * descriptor.supports_bfloat16
    plain = descriptor.tiling is spandrel.ModelTiling.SUPPORTED
    scale, wider = descriptor.scale, 1 if plain else _WIDER
    windows = [_ALIGNED] if not plain else _windows(descriptor.model)
    multiple = math.lcm(descriptor.size_requirements.multiple_of, *windows)
    return ModelInfo(
        scale,
        tile=-(-_TILE // multiple) * multiple,
        halo=_HALO * wider,
        blend=_BLEND * wider,
        pixel_bytes=_PIXEL_BYTES + 16 * scale**2,
        multiple=multiple,
        arguments={
            "num_in_ch": descriptor.input_channels,
            "num_out_ch": descriptor.output_channels,
            "descriptor": descriptor,
        },
        channels=channels_of(descriptor.input_channels, descriptor.output_channels),
        halves=tuple(halves),
        recordable=False,  # some of them make masks on the host, by the size of the picture
        name=name,
    )


def _windows(model: Any) -> list[int]:
    """Sides of the windows that attention is held to, if it is."""
    sides = [getattr(model, name, 1) for name in ("window_size", "split_size")]
    flat = [each for side in sides for each in (side if isinstance(side, list | tuple) else [side])]
    return [each for each in flat if isinstance(each, int) and each > 0]


def build(state: StateDict, facts: ModelInfo) -> nn.Module:
    """spandrel has loaded the weights to recognise them."""
    return Net(facts.arguments["descriptor"])


def forward(net: nn.Module, facts: ModelInfo, image: Tensor, dtype: torch.dtype) -> Tensor:
    inputs, outputs = facts.arguments["num_in_ch"], facts.arguments["num_out_ch"]
    image = to_network(image, facts)
    if (inputs, outputs) == (1, 3):
        image = luma(image)
    result: Tensor = net(image.to(dtype))[:, :3].float()
    return result.expand(-1, 3, -1, -1) if (inputs, outputs) == (3, 1) else result


def layers(net: nn.Module, facts: ModelInfo) -> Layers | None:
    return None
