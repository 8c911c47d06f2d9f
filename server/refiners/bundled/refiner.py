"""The refiner that comes with the server (`server/detailnet.py`), for the sampler."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor

from server.detailnet import RESIDUAL_SCALE, STRIDE, TRAIN_STEPS, DetailNet, signal_and_noise
from server.engine.cuda import all_finite
from server.errors import ModelNotFound
from server.refiners.base import Grid
from server.refiners.bundled.settings import Settings, settings

log = structlog.get_logger()


@dataclass
class BundledRefiner:
    """DetailNet for the sampler. Its latent is the residual itself, scaled, at full resolution."""

    name: str
    sha256: str | None
    device: torch.device
    dtype: torch.dtype
    _net: DetailNet = field(repr=False)
    grid: Grid = Grid(tile=768, halo=48, multiple=STRIDE)
    channels: int = 3
    downscale: int = 1
    work: float = 0.4e6
    _exact: DetailNet | None = field(default=None, repr=False)
    """In fp32, with the weights of `_net`; made when it is needed first."""

    def settings(self, creativity: float) -> Settings:
        return settings(creativity)

    def scheduler(self, settings: Settings) -> tuple[Any, Tensor]:
        # As image-to-image does it: the last `steps` of as many steps as the whole way from noise alone then has.
        scheduler = Ddim(min(TRAIN_STEPS, max(settings.steps, round(settings.steps / settings.strength))))
        return scheduler, scheduler.timesteps[-settings.steps :]

    def encode(self, picture: Tensor) -> Tensor:
        return torch.zeros_like(picture)

    @torch.inference_mode()
    def denoise(self, noisy: Tensor, picture: Tensor, step: Tensor, settings: Settings) -> Tensor:
        picture = picture.to(self.dtype, memory_format=torch.channels_last)
        noisy = noisy.to(self.dtype, memory_format=torch.channels_last)
        steps = step.reshape(1).expand(len(noisy)).to(self.device)
        detail: Tensor = self._net(noisy, picture, steps)
        if self.dtype is not torch.float16 or all_finite(detail):
            return detail.float()
        log.warning("a tile of the refiner overflowed: computing it again in fp32")
        if self._exact is None:
            self._exact = copy.deepcopy(self._net).float()
        exact: Tensor = self._exact(noisy.float(), picture.float(), steps)
        return exact

    def decode(self, latent: Tensor, picture: Tensor) -> Tensor:
        return picture + latent / RESIDUAL_SCALE


class Ddim:
    """Deterministic DDIM steps (arXiv:2010.02502) over the cosine schedule, for a network that predicts the clean
    latent.

    The same numbers as `diffusers.DDIMScheduler` with "squaredcos_cap_v2", "sample" and "trailing", with the part of
    its interface that the sampler uses. Importing `diffusers` instead would take seconds of the first job.
    """

    def __init__(self, count: int) -> None:
        """`count`: steps from noise alone to the clean latent, 1 … TRAIN_STEPS."""
        self._stride = TRAIN_STEPS // count
        places = torch.arange(count, dtype=torch.float64)
        self.timesteps = (TRAIN_STEPS - places * (TRAIN_STEPS / count)).round().long() - 1
        """From the noisiest to the cleanest."""

    def add_noise(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        signal, share = signal_and_noise(steps[0])
        return clean * signal.to(clean.device) + noise * share.to(clean.device)

    def scale_model_input(self, latent: Tensor, step: Tensor) -> Tensor:
        return latent

    def step(self, clean: Tensor, step: Tensor, latent: Tensor, *, return_dict: bool = False) -> tuple[Tensor]:
        """`latent` with the noise of the next step, given its `clean` part; in a tuple, as in `diffusers`."""
        signal, noise = (each.to(latent.device) for each in signal_and_noise(step))
        estimated = (latent - signal * clean) / noise
        following = step - self._stride
        if following < 0:
            return (clean,)
        signal, noise = (each.to(latent.device) for each in signal_and_noise(following))
        return (signal * clean + noise * estimated,)


def load(path: Path, *, name: str, sha256: str | None, device: torch.device, dtype: torch.dtype) -> BundledRefiner:
    """From a safetensors file whose metadata says how its network is built. Raises ModelNotFound."""
    import safetensors
    from safetensors.torch import load_file

    try:
        with safetensors.safe_open(path, "pt") as file:
            architecture = json.loads((file.metadata() or {}).get("architecture", "{}"))
        state = load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ModelNotFound(f"{path.name} is not a refiner, or a damaged one") from error
    if architecture.pop("class", None) != DetailNet.__name__:
        raise ModelNotFound(f"{path.name} holds no refiner this server knows")
    net = DetailNet(**architecture)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelNotFound(f"{path.name} says it is a refiner, but its weights don't fit") from error
    net = net.eval().requires_grad_(False).to(device, dtype).to(memory_format=torch.channels_last)
    return BundledRefiner(name, sha256, device, dtype, net)
