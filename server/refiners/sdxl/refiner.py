"""Stable Diffusion XL (Podell et al., arXiv:2307.01952), guided by the picture with a tile ControlNet
(arXiv:2302.05543).

The networks are those of `diffusers`; the rest is our own. Nothing here downloads: `weights pull sdxl` installs the
weights.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor, nn
from torch.func import functional_call

from server.engine.cuda import all_finite
from server.engine.device import Halving
from server.errors import ModelNotFound
from server.models.base import shapes_only
from server.refiners.base import Grid
from server.refiners.sdxl.autoencoder import Autoencoder
from server.refiners.sdxl.prompt import Prompt, embedded
from server.refiners.sdxl.settings import Settings, settings

log = structlog.get_logger()

_TILE, _HALO = 1024, 96
"""SDXL was trained on pictures of about 1024 × 1024; with smaller ones its results are worse."""
_BATCH = 16
_WORK = 6e6
"""Multiplications of UNet and ControlNet for a pixel of the result in one step, for both texts, about."""
_PULL = "`python -m server weights pull sdxl` gets it"
_WEIGHTS = ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors")


@dataclass
class SdxlRefiner:
    """SDXL for the sampler. Its latent is the autoencoder's."""

    name: str
    sha256: str | None
    device: torch.device
    dtype: torch.dtype
    grid: Grid
    channels: int
    downscale: int
    work: float
    _unet: Any = field(repr=False)
    _control: Any = field(repr=False)
    _autoencoder: Autoencoder = field(repr=False)
    _prompt: Prompt = field(repr=False)
    _schedule: dict[str, Any] = field(repr=False)
    _batch: Halving = field(repr=False)
    """How many tiles, counted once for each text, go through the network at a time."""

    def settings(self, creativity: float) -> Settings:
        return settings(creativity)

    def scheduler(self, settings: Settings) -> tuple[Any, Tensor]:
        """DPM-Solver++ (2M, arXiv:2211.01095), which adds no noise between steps. The steps are spread evenly from
        the start to the end, so that a little more strength is a little more noise."""
        from diffusers import DPMSolverMultistepScheduler

        kind: Any = DPMSolverMultistepScheduler
        scheduler = kind.from_config(
            self._schedule,
            algorithm_type="dpmsolver++",
            solver_order=2,
            final_sigmas_type="zero",
            use_karras_sigmas=False,
            lower_order_final=True,
        )
        first = settings.strength * scheduler.config.num_train_timesteps
        steps = [round(first * (settings.steps - number) / settings.steps) - 1 for number in range(settings.steps)]
        scheduler.set_timesteps(timesteps=[max(step, 0) for step in steps])
        return scheduler, scheduler.timesteps

    def encode(self, picture: Tensor) -> Tensor:
        return self._autoencoder.encode(picture)

    @torch.inference_mode()
    def denoise(self, noisy: Tensor, picture: Tensor, step: Tensor, settings: Settings) -> Tensor:
        if settings.guidance <= 1:
            return self._predict(noisy, picture, [1] * len(noisy), step, settings.control)
        texts = [0] * len(noisy) + [1] * len(noisy)
        both = self._predict(noisy.repeat(2, 1, 1, 1), picture.repeat(2, 1, 1, 1), texts, step, settings.control)
        without, with_text = both.chunk(2)
        return torch.lerp(without, with_text, settings.guidance)

    def decode(self, latent: Tensor, picture: Tensor) -> Tensor:
        return self._autoencoder.decode(latent)

    def _predict(self, noisy: Tensor, picture: Tensor, texts: list[int], step: Tensor, control: float) -> Tensor:
        """What the network predicts for each row, given the text `texts[row]`. Raises OutOfMemory."""

        def in_batches(size: int) -> Tensor:
            batches = [slice(start, start + size) for start in range(0, len(texts), size)]
            return torch.cat([self._finite(noisy[at], picture[at], texts[at], step, control) for at in batches])

        return self._batch.run(in_batches, len(texts))

    def _finite(self, noisy: Tensor, picture: Tensor, texts: list[int], step: Tensor, control: float) -> Tensor:
        result = self._forward(noisy, picture, texts, step, control, self.dtype)
        if self.dtype is not torch.float16 or all_finite(result):
            return result
        # bf16 has the range of fp32. This is rare, so the copy of the weights is not kept.
        wide = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        log.warning("a tile overflowed: computing it again", dtype=str(wide))
        return self._forward(noisy, picture, texts, step, control, wide)

    def _forward(
        self, noisy: Tensor, picture: Tensor, texts: list[int], step: Tensor, control: float, dtype: torch.dtype
    ) -> Tensor:
        noisy = noisy.to(self.device, dtype)
        picture = picture.clamp(0, 1).to(self.device, dtype)
        tokens, pooled = self._prompt.tokens[texts].to(dtype), self._prompt.pooled[texts].to(dtype)
        # The sizes of a picture before and after cropping, and its position. A small size would ask for blur.
        height, width = (max(side, _TILE) for side in picture.shape[2:])
        sizes = noisy.new_tensor([[height, width, 0, 0, height, width]] * len(texts))
        added = {"text_embeds": pooled, "time_ids": sizes}
        down, middle = _call(
            self._control,
            noisy,
            step.to(self.device),
            encoder_hidden_states=tokens,
            controlnet_cond=picture,
            conditioning_scale=control,
            added_cond_kwargs=added,
            return_dict=False,
        )
        answer: Tensor = _call(
            self._unet,
            noisy,
            step.to(self.device),
            encoder_hidden_states=tokens,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return answer.float()


def load(
    base: Path, control: Path, *, name: str, sha256: str | None, device: torch.device, dtype: torch.dtype, cache: Path
) -> SdxlRefiner:
    """From the folders of SDXL and of its ControlNet, as `diffusers` stores them. `cache`: a writable folder. Raises
    ModelNotFound, and what `embedded` raises."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    schedule = _config(base / "scheduler", "scheduler_config.json")
    prompt = embedded(base, cache)
    unet = _network(UNet2DConditionModel, base / "unet", dtype)
    controlnet = _network(ControlNetModel, control, dtype)
    if unet.config.cross_attention_dim != controlnet.config.cross_attention_dim:
        raise ModelNotFound(f"{control.name} is a ControlNet of another diffusion model than {base.name}; {_PULL}")
    vae_config = _config(base / "vae", "config.json")
    # Its activations exceed the range of fp16, and bf16 would give visible bands in flat places.
    vae = _network(AutoencoderKL, base / "vae", torch.float32 if vae_config.get("force_upcast", True) else dtype)
    for net in (unet, controlnet, vae):
        net.to(device, memory_format=torch.channels_last)
    autoencoder = Autoencoder(vae)
    multiple = autoencoder.downscale * 2 ** (len(unet.config.block_out_channels) - 1)
    return SdxlRefiner(
        name=name,
        sha256=sha256,
        device=device,
        dtype=dtype,
        grid=Grid(_TILE, _HALO, multiple),
        channels=autoencoder.channels,
        downscale=autoencoder.downscale,
        work=_WORK,
        _unet=unet,
        _control=controlnet,
        _autoencoder=autoencoder,
        _prompt=Prompt(prompt.tokens.to(device, dtype), prompt.pooled.to(device, dtype)),
        _schedule=schedule,
        _batch=Halving("SDXL's batch", "one tile of SDXL", device, _BATCH),
    )


def _call(net: Any, noisy: Tensor, step: Tensor, **arguments: Any) -> Any:
    """`net` in the precision of `noisy`."""
    if net.dtype is noisy.dtype:
        return net(noisy, step, **arguments)
    weights = {name: value.to(noisy.dtype) for name, value in net.named_parameters()}
    return functional_call(net, weights, (noisy, step), arguments)


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"SDXL's {folder.name}/{name} is missing or damaged: {_PULL}") from error
    return content


def _network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One network with its weights. It is built on no device, which skips the random initialisation of billions of
    numbers."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = _config(folder, "config.json")
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ModelNotFound(f"SDXL's {folder.name}/{_WEIGHTS[0]} is missing: {_PULL}")
    try:
        state = {key: value.to(dtype) for key, value in load_file(path).items()}
        with shapes_only():
            net: nn.Module = kind.from_config(config)
        net.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise ModelNotFound(f"SDXL's {folder.name}/{path.name} is damaged or of another network: {_PULL}") from error
    return net.eval().requires_grad_(False)
