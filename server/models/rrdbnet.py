"""RRDBNet, Real-ESRGAN's large network: residual-in-residual dense blocks (ESRGAN, arXiv:1809.00219).

Class from basicsr (`basicsr/archs/rrdbnet_arch.py`, Apache-2.0, Xintao Wang). RealESRGAN_x4plus has 23 blocks,
x4plus_anime_6B has 6; x2plus and x1 unshuffle the pixels first and then are the same network.
"""

import torch
from torch import Tensor, nn

from server.kernels import Layer, Layers
from server.models.base import ModelInfo, StateDict
from server.models.basicsr_shim import RRDBNet

NAME = "rrdbnet"
_TILE = 256
# The receptive radius is about 350 pixels, so tiles are never exact. Pixels beyond this halo change a result by less
# than neighbouring pixels differ, and blending hides it: see tests/engine/test_engine.py.
_HALO = 32
_BLEND = 8

_SLOPE = 0.2  # of the class's leaky ReLUs
_SCALE_OF_CHANNELS = {3: 4, 12: 2, 48: 1}


def detect(state: StateDict) -> ModelInfo | None:
    """The first convolution's channels tell the scale, the block indices the depth."""
    needed = ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_up2.weight", "conv_last.weight")
    if any(key not in state for key in needed):
        return None
    scale = _SCALE_OF_CHANNELS.get(state["conv_first.weight"].shape[1])
    if scale is None or state["conv_last.weight"].shape[0] != 3:
        return None
    arguments = {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "scale": scale,
        "num_feat": state["conv_first.weight"].shape[0],
        "num_block": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body.")),
        "num_grow_ch": state["body.0.rdb1.conv1.weight"].shape[0],
    }
    unshuffle = 4 // scale
    # Unshuffled pixels are fewer positions for the network, so a larger tile with a larger halo takes the same work.
    return ModelInfo(
        scale,
        tile=_TILE * unshuffle,
        halo=_HALO * unshuffle,
        blend=_BLEND * unshuffle,
        pixel_bytes=3 * 16 * 4 * arguments["num_feat"] // unshuffle**2,  # three maps at four times the size
        multiple=unshuffle,
        arguments=arguments,
    )


def build(facts: ModelInfo) -> nn.Module:
    net: nn.Module = RRDBNet(**facts.arguments)
    return net


def forward(net: nn.Module, image: Tensor, dtype: torch.dtype) -> Tensor:
    result: Tensor = net(image.to(dtype, memory_format=torch.channels_last))
    return result.float()


def layers(net: nn.Module, facts: ModelInfo) -> Layers:
    assert isinstance(net, RRDBNet)
    convolutions: list[Layer] = []

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
    for convolution in (net.conv_up1, net.conv_up2, net.conv_hr):
        add(convolution, active=True)
    add(net.conv_last, active=False)
    return Layers("rrdbnet", convolutions, facts.scale, facts.arguments["num_grow_ch"])
