"""The perceptual network's critic: a U-Net that says for each pixel whether it is a photograph's or the network's.

After Schönfeld et al. (arXiv:2002.12655) and Real-ESRGAN (arXiv:2107.10833, section 3.4): three steps down, three up
with additive skips, spectral normalisation inside, which keeps the critic's slope, and so the training, in bounds.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """N×3×H×W in [0, 1], sides multiples of 8 → (N×1×H×W logits, the features of each depth, finest first)."""

    def __init__(self, features: int = 32) -> None:
        super().__init__()
        n = features
        self.enter = nn.Conv2d(3, n, 3, padding=1)
        self.down = nn.ModuleList(_convolution(n << i, n << (i + 1), 4, stride=2) for i in range(3))
        self.up = nn.ModuleList(_convolution(n << (i + 1), n << i, 3) for i in (2, 1, 0))
        self.refine = nn.ModuleList(_convolution(n, n, 3) for _ in range(2))
        self.judge = nn.Conv2d(n, 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        encoded = [_activate(self.enter(image))]
        for layer in self.down:
            encoded.append(_activate(layer(encoded[-1])))
        *skips, x = encoded
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = _activate(layer(x)) + skip
        for layer in self.refine:
            x = _activate(layer(x))
        logits: Tensor = self.judge(x)
        return logits, [*encoded, x]

    def weights(self) -> list[Tensor]:
        """The normalised ones. NOTE: ask for them within `parametrize.cached()` and before any autocast, which would
        give spectral normalisation a dot product of two formats; what is called after them then uses these."""
        return [cast(Tensor, layer.weight) for layers in (self.down, self.up, self.refine) for layer in layers]


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    normalised: nn.Module = spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False))
    return normalised


def _activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)
