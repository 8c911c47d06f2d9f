"""Networks for tests: small ones with seeded weights, and the real ones that are here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from server.job.creativity import recipe
from server.job.job import Params
from server.job.plan import Sizes
from server.models import Model, load_model
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from server.pipeline.base import Load, Loaded
from server.weights.catalog import FOLDER, Choice
from tests.paths import SHARED

CPU = torch.device("cpu")
BUNDLED = FOLDER / "bundled" / "fidelity-x4.safetensors"
OFFICIAL = SHARED / "weights" / "official"


def official(name: str) -> Path:
    """A checkpoint that may not be committed; the test is skipped where it is not."""
    if not (OFFICIAL / name).exists():
        pytest.skip(f"{name} is not on this machine")
    return OFFICIAL / name


def seeded(net: nn.Module, seed: int = 0) -> nn.Module:
    """He's noise in every layer: unlike torch's default it keeps the signal's size, so that differences show."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.25)
            nn.init.normal_(module.bias, std=0.01)  # type: ignore[arg-type]
    return net.eval()


def srvgg(num_feat: int = 16, num_conv: int = 6, upscale: int = 4) -> nn.Module:
    return seeded(SRVGGNetCompact(num_feat=num_feat, num_conv=num_conv, upscale=upscale))


def rrdbnet(scale: int = 4, num_block: int = 2, num_feat: int = 32, num_grow_ch: int = 16) -> nn.Module:
    """Scaled so that 0…1 comes out as about 0…1: He's noise alone grows through the dense blocks."""
    net = RRDBNet(3, 3, scale=scale, num_feat=num_feat, num_block=num_block, num_grow_ch=num_grow_ch)
    seeded(net)
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        net.conv_last.weight.div_(net(image).std() * 4)
        net.conv_last.bias.add_(0.5 - net(image).mean())
    return net


def nearest(upscale: int = 4) -> nn.Module:
    """A network whose result is known: its residual is zero, so it repeats every pixel."""
    net = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=upscale)
    nn.init.zeros_(net.body[-1].weight)
    nn.init.zeros_(net.body[-1].bias)
    return net


def save(net: nn.Module, path: Path) -> Path:
    torch.save({"params_ema": net.state_dict()}, path)
    return path


def load(path: Path, **kwargs: Any) -> Model:
    return load_model(path, name=path.stem, sha256=None, device=CPU, **kwargs)


def loader(model: Model, fidelity: Model | None = None) -> Load:
    """`Context.load` that always gives this network and, where creativity mixes its result in, that fidelity."""

    def load(params: Params, sizes: Sizes | None = None, **_: Any) -> Loaded:
        creativity = params.creativity or 0.0
        share = recipe(creativity).fidelity if fidelity is not None else 0.0
        choice = Choice(((model.name, 1.0),), share, creativity)
        return Loaded(model.name, model.sha256, None, choice, model, fidelity if share else None)

    return load
