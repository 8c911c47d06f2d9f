"""Networks and pictures for tests of faces: small GFPGANs, the real detector that is here, real portraits."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from server.engine.engine import Engine
from server.faces import Detector, Restorer
from server.faces.restorers import load as load_restorer
from server.images.read.open import Samples
from server.models import basicsr_shim, load_state
from tests.paths import SHARED

CPU = torch.device("cpu")
ENGINE = Engine(CPU)
DETECTOR = SHARED / "weights" / "faces" / "retinaface_mobilenet0.25.pth"
PORTRAITS = SHARED / "images" / "faces"

GFPGAN = {
    "out_size": 512,
    "num_style_feat": 512,
    "channel_multiplier": 2,
    "decoder_load_path": None,
    "fix_decoder": False,
    "num_mlp": 8,
    "input_is_latent": True,
    "different_w": True,
    "narrow": 1,
    "sft_half": True,
}
"""GFPGANv1.4, as gfpgan's own GFPGANer builds it."""


def picture(name: str) -> Samples:
    """One of the real portraits, which may not be committed; the test is skipped where they are not."""
    if not (PORTRAITS / name).exists():
        pytest.skip(f"{name} is not on this machine")
    with Image.open(PORTRAITS / name) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def detector_path() -> Path:
    if not DETECTOR.exists():
        pytest.skip("no RetinaFace checkpoint is on this machine")
    return DETECTOR


def detector() -> Detector:
    return Detector(load_state(detector_path()), "retinaface", ENGINE)


def gfpgan(seed: int = 0, **arguments: Any) -> nn.Module:
    """The package's class with seeded weights, 1/16 as wide as the real one. It makes patterns of no meaning."""
    torch.manual_seed(seed)
    net: nn.Module = basicsr_shim.gfpgan_v1_clean()(**{**GFPGAN, "narrow": 1 / 16, **arguments})
    return net.eval().requires_grad_(False)


def copying(tint: tuple[float, float, float] = (0, 0, 0)) -> nn.Module:
    """A GFPGAN whose result is known: every other pixel of what it is given, and those between interpolated; `tint` is
    added to red, green and blue.

    The picture takes the shortest way: first level of the encoder, its skip, last level, shift of the modulation,
    output. Leaky rectifiers are passed in pairs: of x and −x together, (a − b) / 1.2 is x again.
    """
    net = gfpgan(narrow=1 / 4)
    for parameter in net.parameters():
        parameter.zero_()
    colours = torch.arange(3)
    pairs = torch.cat((torch.eye(3), -torch.eye(3)))  # 3 → 6
    joined = torch.cat((torch.eye(3), -torch.eye(3)), 1) / 1.2  # 6 → 3
    one = (..., 1, 1)  # the middle of a 3 × 3 kernel
    net.conv_body_first.weight[:6, :, 0, 0] = pairs
    net.conv_body_down[0].skip.weight[:3, :6, 0, 0] = joined
    net.conv_body_up[-1].skip.weight[colours, colours] = 1
    shift = net.condition_shift[-1]
    shift[0].weight[:6, :3][one] = pairs
    shift[2].weight[:6, :6][one] = pairs @ joined
    # The second half of the generator's features is modulated, and here replaced, since the scale is 0.
    last, output = net.stylegan_decoder.style_convs[-1], net.stylegan_decoder.to_rgbs[-1]
    half = last.modulated_conv.in_channels // 2
    last.modulated_conv.modulation.bias.fill_(1)
    channels = torch.arange(6)
    last.modulated_conv.weight[0, channels, half + channels, 1, 1] = 1
    output.modulated_conv.modulation.bias.fill_(1)
    # What the layer makes of it: its own factor √2, then the rectifier.
    output.modulated_conv.weight[0, :, :6, 0, 0] = joined / 2**0.5
    output.bias[0, :, 0, 0] = torch.tensor(tint) * 2
    return net


@functools.cache
def parser() -> nn.Module:
    """facexlib's class with seeded weights. It takes everything for one thing or another."""
    torch.manual_seed(0)
    net: nn.Module = basicsr_shim.parse_net()(in_size=512, out_size=512, parsing_ch=19)
    return net.eval().requires_grad_(False)


def restorer(net: nn.Module) -> Restorer:
    return load_restorer(net.state_dict(), "seeded", ENGINE, torch.float32)
