"""What the refiner is conditioned on: what the server makes of a damaged picture before the refiner sees it.

That is RealESRGAN_x4plus's result with its colours locked to the source, or fidelity-x4's. Needs torch alone, but for
reading the packaged file of RealESRGAN_x4plus; on a CPU the server's own kernels run it, where they can be had.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.dataset import SCALE

LOWPASS = 2.0
"""Standard deviation of the colour lock's Gaussian, in source pixels (server/rows/colour_lock.py)."""

Enlarge = Callable[[Tensor], Tensor]
"""N×3×h×w in [0, 1] → N×3×4h×4w, about in [0, 1]."""


class Conditions:
    """A teacher for the stream of pairs: `share` of the pairs are enlarged by `large`, the others by `small`.

    Which one follows from the pair itself, so that a resumed run sees the same.
    """

    def __init__(self, small: Enlarge, large: Enlarge, share: float) -> None:
        self.small, self.large, self.share = small, large, share

    @torch.no_grad()
    def __call__(self, lr: Tensor, hr: Tensor, damaged: bool) -> Tensor:
        levels = int(lr.mul(255).round().sum().item())
        if levels % 1000 >= 1000 * self.share:
            return self.small(lr)
        return locked(self.large(lr), lr)


def locked(image: Tensor, lr: Tensor) -> Tensor:
    """N×3×4h×4w with the low frequencies of its source N×3×h×w; both in [0, 1], and so is the result."""
    image = image.clamp(0, 1)
    lost = lr - functional.avg_pool2d(image, SCALE)
    radius = math.ceil(3 * LOWPASS)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=lr.device) / LOWPASS).square())
    taps = (taps / taps.sum()).to(lr.dtype).expand(lr.shape[1], 1, 1, -1)
    for kernel, padding in ((taps, (radius, radius, 0, 0)), (taps.transpose(2, 3), (0, 0, radius, radius))):
        lost = functional.conv2d(functional.pad(lost, padding, "replicate"), kernel, groups=lr.shape[1])
    return (image + functional.interpolate(lost, scale_factor=SCALE, mode="bilinear")).clamp(0, 1)


def load_large(path: Path, device: torch.device) -> Enlarge:
    """RealESRGAN_x4plus from the package's `.bin` (its `.param` beside it), the release's `.pth`, or the file that
    `training.pack --large` writes, which needs torch alone."""
    if device.type == "cpu":
        native = _native(path)
        if native is not None:
            return native
    state = large_state(path)
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    net = Large(blocks)
    net.load_state_dict(state)
    return net.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def large_state(path: Path) -> dict[str, Tensor]:
    """The weights of RealESRGAN_x4plus, from any file that `load_large` takes."""
    if path.suffix == ".bin":
        from server.models.ncnn import load_ncnn

        return dict(load_ncnn(path))
    content = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = content.get("params_ema") or content.get("params") or content
    return state


def packaged() -> Path:
    """Where the installed package has the file."""
    from server.config import load_config  # not on a bare GPU machine, which names the file
    from server.weights.catalog import Catalog
    from server.weights.choice import LARGE_X4

    return Catalog.of(load_config()).get(LARGE_X4).path


def _native(path: Path) -> Enlarge | None:
    """On the server's own kernels, several times as fast as torch; None without a compiler or the server's packages."""
    try:
        from server.kernels.cpu import Kernel, load
        from server.models import load_model
    except ImportError:
        return None
    kernel = load()
    if not isinstance(kernel, Kernel):
        return None
    model = load_model(path, name=path.stem, sha256=None, device=torch.device("cpu"), kernel=kernel)
    return model.native


class Large(nn.Module):
    """RRDBNet (ESRGAN, arXiv:1809.00219) ×4 in torch alone, with the state dict of basicsr's."""

    def __init__(self, blocks: int = 23, features: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.conv_first = _convolution(3, features)
        self.body = nn.Sequential(*(_Rrdb(features, growth) for _ in range(blocks)))
        self.conv_body = _convolution(features, features)
        self.conv_up1 = _convolution(features, features)
        self.conv_up2 = _convolution(features, features)
        self.conv_hr = _convolution(features, features)
        self.conv_last = _convolution(features, 3)

    def forward(self, lr: Tensor) -> Tensor:
        features = self.conv_first(lr)
        features = features + self.conv_body(self.body(features))
        for convolution in (self.conv_up1, self.conv_up2):
            features = _leaky(convolution(functional.interpolate(features, scale_factor=2)))
        result: Tensor = self.conv_last(_leaky(self.conv_hr(features)))
        return result


class _Dense(nn.Module):
    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _convolution(features, growth)
        self.conv2 = _convolution(features + growth, growth)
        self.conv3 = _convolution(features + 2 * growth, growth)
        self.conv4 = _convolution(features + 3 * growth, growth)
        self.conv5 = _convolution(features + 4 * growth, features)

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            known.append(_leaky(convolution(torch.cat(known, 1))))
        result: Tensor = x + 0.2 * self.conv5(torch.cat(known, 1))
        return result


class _Rrdb(nn.Module):
    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(features, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))
        return result


def _convolution(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)
