"""Every other architecture: those of the package spandrel (MIT), which is the extra `models`.

spandrel gets a state dict that `load_state` has read, and nothing else: its own reader of pickles, and torch.jit, are
never reached. It says what a network needs: sizes, precisions, channels. It knows no halo, and many of its networks
have none that is exact, so tiles get a wide one and are blended.
"""

from typing import Any

import torch
from torch import Tensor, nn

from server.errors import ModelNotFound
from server.kernels import Kernel
from server.kernels.cpu.network import Network
from server.models.base import ModelInfo, StateDict, channels_of, luma, to_network

NAME = "community"
INSTALL = "pip install 'upscale-server[models]'"

_TILE = 256
# Measured in tests/models/test_architectures.py for networks of several kinds: seams are less than what neighbouring
# pixels differ by.
_HALO = 32
_BLEND = 8
_WHOLE = 1024
"""Least tile of networks that look at the whole picture, which their authors would rather not have cut."""
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


def detect(state: StateDict) -> ModelInfo | None:
    """None without the extra. Raises ModelNotFound for a network that is not one for pictures as they are."""
    try:
        import spandrel
    except ModuleNotFoundError:
        return None
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError:
        return None
    name = descriptor.architecture.id
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        kind = "faces" if descriptor.purpose == "FaceSR" else "pictures with a mask"
        raise ModelNotFound(
            f"the checkpoint is of {name}, a network for {kind}, which this server can't use to enlarge"
        )
    halves = [torch.float16] * descriptor.supports_half + [torch.bfloat16] * descriptor.supports_bfloat16
    multiple, scale = descriptor.size_requirements.multiple_of, descriptor.scale
    step = _HALO if _HALO % multiple == 0 else multiple
    whole = descriptor.tiling is not spandrel.ModelTiling.SUPPORTED
    return ModelInfo(
        scale,
        tile=-(-(_WHOLE if whole else _TILE) // multiple) * multiple,
        halo=max(_HALO, step),
        blend=_BLEND,
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


def native(net: nn.Module, facts: ModelInfo, kernel: Kernel) -> Network | None:
    return None
