"""SRVGGNetCompact, Real-ESRGAN's small network: a plain chain of 3×3 convolutions, then one pixel shuffle.

Class from basicsr (`basicsr/archs/srvgg_arch.py`, BSD-3/Apache-2.0, Xintao Wang). realesr-general-x4v3 and our bundled
networks have 32 body layers, realesr-animevideov3 has 16.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from server.kernels import Layer, Layers
from server.models.base import Channels, ModelInfo, StateDict, channels_of, filled, for_pictures, to_network
from server.models.basicsr_shim import SRVGGNetCompact

NAME = "srvgg"
_TILE = 512


def detect(state: StateDict) -> ModelInfo | None:
    """The chain's indices tell its length: body.0 and every second one after it are convolutions."""
    convolutions = [key for key, value in state.items() if key.startswith("body.") and value.ndim == 4]
    if "body.0.weight" not in state or not convolutions or len({key.split(".")[0] for key in state}) != 1:
        return None
    last = max(int(key.split(".")[1]) for key in convolutions)
    channels = state["body.0.weight"].shape[1]
    depth = last // 2 - 1
    samples = state[f"body.{last}.weight"].shape[0]
    scale = math.isqrt(samples // channels)
    if samples != channels * scale**2:  # the residual is added to the source: it has as many channels
        return None
    arguments = {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": state["body.0.weight"].shape[0],
        "num_conv": depth,
        "upscale": scale,
        # NOTE: relu and leakyrelu have no weights and can't be told apart; every published checkpoint is prelu.
        "act_type": "prelu" if "body.1.weight" in state else "relu",
    }
    # depth + 2 convolutions of radius 1: with this halo a tile is exact.
    return ModelInfo(
        scale,
        _TILE,
        halo=depth + 2,
        blend=0,
        pixel_bytes=3 * 4 * state["body.0.weight"].shape[0],  # three maps
        multiple=1,
        arguments=arguments,
        channels=channels_of(channels, channels),
    )


def build(state: StateDict, facts: ModelInfo) -> nn.Module:
    last = 2 * facts.arguments["num_conv"] + 2
    state = for_pictures(state, facts, "body.0", f"body.{last}", facts.scale**2)
    return filled(lambda: _network(facts, state[f"body.{last}.weight"].shape[0]), state)


def _network(facts: ModelInfo, samples: int) -> nn.Module:
    """The class, for a last convolution of so many samples for a source pixel."""
    net = SRVGGNetCompact(**facts.arguments)
    if samples != net.body[-1].out_channels:
        net.body[-1] = nn.Conv2d(net.body[-1].in_channels, samples, 3, padding=1)
    return net  # type: ignore[no-any-return]


def forward(net: nn.Module, facts: ModelInfo, image: Tensor, dtype: torch.dtype) -> Tensor:
    """As the class does, but the picture that the residual is added to stays in fp32: 3 dB more in half precision."""
    assert isinstance(net, SRVGGNetCompact)
    features = to_network(image, facts).to(dtype, memory_format=torch.channels_last)
    for layer in net.body:
        features = layer(features)
    residual: Tensor = net.upsampler(features).float()
    del features  # each of these is 200 bytes for a source pixel
    base = image[:, : residual.shape[1]]
    return residual.add_(functional.interpolate(base, scale_factor=net.upscale, mode="nearest"))


def layers(net: nn.Module, facts: ModelInfo) -> Layers:
    assert isinstance(net, SRVGGNetCompact)
    chain: list[Layer] = []
    for index in range(0, len(net.body), 2):
        convolution = net.body[index]
        slope = None
        if index + 1 < len(net.body):
            # Of an activation without weights only relu is built here: see `detect`.
            activation = net.body[index + 1]
            slope = activation.weight if isinstance(activation, nn.PReLU) else torch.zeros(convolution.out_channels)
        chain.append((convolution.weight, convolution.bias, slope))
    return Layers("srvgg", chain, facts.scale, opaque=facts.channels is Channels.WITH_ALPHA)
