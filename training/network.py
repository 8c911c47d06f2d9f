"""The network that is trained: SRVGGNetCompact 64×32 ×4.

A separate class with the same state dict as basicsr's, which runs the result (`tests/training/test_training.py`
holds the two together): a rented GPU machine has torch, but not what basicsr imports.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.dataset import SCALE

FEATURES = 64
DEPTH = 32


class Compact(nn.Module):
    """A plain chain of 3×3 convolutions at low resolution, then one pixel shuffle; learns the residual to
    nearest-neighbour (Wang et al., arXiv:2107.10833, the released `realesr-general-x4v3`)."""

    def __init__(self, features: int = FEATURES, depth: int = DEPTH) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": features,
            "num_conv": depth,
            "upscale": SCALE,
            "act_type": "prelu",
        }
        self.body = nn.ModuleList([nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)])
        for _ in range(depth):
            self.body += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        self.body.append(nn.Conv2d(features, 3 * SCALE**2, 3, padding=1))

    def forward(self, lr: Tensor) -> Tensor:
        """N×3×h×w in [0, 1] → N×3×4h×4w, not clamped. The enlarged input, to which the residual is added, keeps its
        dtype."""
        features = lr
        for layer in self.body:
            features = layer(features)
        return functional.pixel_shuffle(features, SCALE) + functional.interpolate(lr, scale_factor=SCALE)


@torch.no_grad()
def initialise(net: Compact) -> None:
    """Body layers start as the identity plus a tenth of He's noise, the last layer near zero.

    NOTE: the network has 34 plain layers without skip connections. With torch's default the signal shrinks by 0.6 per
    layer; with He's initialisation alone all features become the same. Both were no better than nearest-neighbour after
    a thousand steps. Starting from the identity is like a residual network whose skips are part of the weights
    (DiracNets, arXiv:1706.00388); it is better than nearest-neighbour after 160 steps.
    """
    first, *body, last = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    for convolution in (first, *body, last):
        nn.init.kaiming_normal_(convolution.weight, a=0.25)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
    for convolution in body:
        identity = nn.init.dirac_(torch.empty_like(convolution.weight))
        convolution.weight.mul_(0.1).add_(identity)
    last.weight.mul_(0.02)


def load(path: Path) -> Compact:
    """Load a bundled file, a training run's checkpoint (its average) or the `.pth` of a release."""
    state = read_state(path)
    if "body.0.weight" not in state:
        raise SystemExit(f"{path} is not an SRVGGNetCompact, which the trainers need")
    convolutions = [key for key, value in state.items() if value.ndim == 4]
    net = Compact(features=state["body.0.weight"].shape[0], depth=len(convolutions) - 2)
    net.load_state_dict({key: value.float() for key, value in state.items()})
    return net


def read_state(path: Path) -> dict[str, Tensor]:
    """Of a bundled file, of a training run's checkpoint (its average) or of a release's `.pth`."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # a bare GPU machine lacks it, and starts from a run's checkpoint

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = content.get("params_ema") or content.get("params") or content
    return state
