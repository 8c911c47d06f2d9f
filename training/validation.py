"""Fixed pairs of the held-out pictures, and a network's scores on them."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch

from training.dataset import Pixels, to_pixels, to_tensor
from training.network import Compact

BORDER = 4

PixelPair = tuple[Pixels, Pixels]
"""(lr, hr)"""


@dataclass(frozen=True)
class Validation:
    """256² crops after clean bicubic and after second-order degradation; and larger degraded pictures for NIQE, which
    needs size and no ground truth."""

    clean: list[PixelPair]
    degraded: list[PixelPair]
    large: list[Pixels]

    def measure(self, net: Compact) -> dict[str, float]:
        """Mean RGB PSNR in dB of both kinds and, if basicsr is installed, NIQE of the large pictures. In fp32."""
        figures = {"psnr_clean": psnr(net, self.clean), "psnr_degraded": psnr(net, self.degraded)}
        if find_spec("basicsr"):
            figures["niqe"] = float(np.mean([niqe(enlarge(net, lr)) for lr in self.large]))
        return figures


def psnr(net: Compact, pairs: list[PixelPair]) -> float:
    """Without a border of 4 pixels."""
    values = []
    for lr, hr in pairs:
        error = enlarge(net, lr).astype(np.float32) - hr
        mean = np.square(error[BORDER:-BORDER, BORDER:-BORDER]).mean()
        values.append(10 * np.log10(255**2 / max(1e-9, mean)))
    return float(np.mean(values))


def niqe(picture: Pixels) -> float:
    """NIQE (Mittal et al., 2013), as basicsr computes it; lower is more natural. Needs no ground truth."""
    import server.models.basicsr_shim  # noqa: F401, I001  (basicsr cannot be imported before it)
    from basicsr.metrics.niqe import calculate_niqe

    return float(calculate_niqe(picture[..., ::-1], crop_border=0))


@torch.no_grad()
def enlarge(net: Compact, lr: Pixels) -> Pixels:
    device = next(net.parameters()).device
    output: Pixels = to_pixels(net(to_tensor(lr[None]).to(device)))[0]
    return output
