"""Restores aligned faces: GFPGAN (Wang et al., arXiv:2101.04061), the "clean" network of v1.2, v1.3 and v1.4.

This is the package's unchanged network. Without `randomize_noise=False` it adds noise from the global generator, and
every run gives another face. Its `weight` argument has no effect, so the strength is applied in pasting.

Half precision uses autocast. Plain `.half()` squares modulated weights in fp16; where that overflows, the demodulation
makes them zero, and the face is wrong although all its values are finite.
"""

import structlog
import torch
from torch import Tensor, nn

from server.engine.device import Halving
from server.errors import ModelNotFound
from server.faces.base import SIDE
from server.images.read.open import Samples
from server.images.samples import Floats, to_floats
from server.models import basicsr_shim
from server.models.base import StateDict, shapes_only

log = structlog.get_logger()

_CUDA_BATCH = 8
"""Faces at a time, about 1 GB each. On a CPU batches are not faster."""

PULL = "`python -m server weights pull gfpgan` installs v1.4"


NAME = "GFPGAN"
_NEEDED = ("conv_body_first.weight", "final_conv.weight", "stylegan_decoder.constant_input.weight")
_FIRST_LAYOUT = "conv_body_first.0.weight"


def detect(state: StateDict) -> bool:
    return _FIRST_LAYOUT in state or all(key in state for key in _NEEDED)


def load(state: StateDict, name: str, device: torch.device, dtype: torch.dtype) -> "Gfpgan":
    return Gfpgan(state, name, device, dtype)


class Gfpgan:
    def __init__(self, state: StateDict, name: str, device: torch.device, dtype: torch.dtype) -> None:
        """`name`: of the checkpoint, for errors. `dtype`: to multiply in. Raises ModelNotFound, also for the older
        layouts."""
        self._net = _build(_arguments(state, name))
        try:
            self._net.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise ModelNotFound(f"{name} looks like GFPGAN but its weights don't fit it; {PULL}") from error
        self._net.eval().requires_grad_(False).to(device)
        self._device = device
        self._dtype = dtype
        faces = _CUDA_BATCH if device.type == "cuda" else 1
        self._batch = Halving("the batch of faces", "one face", device, faces)

    @torch.inference_mode()
    def __call__(self, crops: list[Samples]) -> list[Floats]:
        """Aligned faces, SIDE × SIDE × 3 of 8 or 16 bits, → the same faces restored, RGB in [0, 1]. At most `batch`
        of them at once. Raises OutOfMemory."""
        image = torch.stack([_to_tensor(crop) for crop in crops]).to(self._device)
        result = self._batch.run(lambda size: self._in_batches(image, size), len(image)).clamp_(-1, 1).add_(1).div_(2)
        return list(result.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    @property
    def batch(self) -> int:
        """How many faces to hand over at once: as many as have fitted so far."""
        return self._batch.size

    def _in_batches(self, image: Tensor, size: int) -> Tensor:
        """(N, 3, SIDE, SIDE) in [-1, 1] → the same."""
        return torch.cat([self._finite(batch) for batch in torch.split(image, size)])

    def _finite(self, image: Tensor) -> Tensor:
        exact = self._dtype is torch.float32
        result = self._forward(image, exact)
        if exact or bool(torch.isfinite(result).all()):
            return result
        log.warning("a face overflowed: computing it again in fp32", dtype=str(self._dtype))
        return self._forward(image, exact=True)

    def _forward(self, image: Tensor, exact: bool) -> Tensor:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=not exact):
            result: Tensor = self._net(image, return_rgb=False, randomize_noise=False)[0]
        return result.float()


def _arguments(state: StateDict, name: str) -> dict[str, float]:
    """The two hyper-parameters that differ between checkpoints, from shapes. Raises ModelNotFound."""
    if _FIRST_LAYOUT in state:
        raise ModelNotFound(
            f"{name} is a GFPGAN of the first layout (v1.0, or its bilinear form), which needs CUDA code compiled for "
            f"one machine; this server runs the clean layout of v1.2 and later: {PULL}"
        )
    narrow = state["stylegan_decoder.constant_input.weight"].shape[1] / 512
    return {"narrow": narrow, "channel_multiplier": state["conv_body_first.weight"].shape[0] / (16 * narrow)}


def _build(arguments: dict[str, float]) -> nn.Module:
    """Without weights and on no device, which skips the random initialisation of 87 million numbers."""
    with shapes_only():
        net: nn.Module = basicsr_shim.gfpgan_v1_clean()(
            out_size=SIDE,
            num_style_feat=512,
            decoder_load_path=None,
            fix_decoder=False,
            num_mlp=8,
            input_is_latent=True,
            different_w=True,
            sft_half=True,
            **arguments,
        )
    return net


def _to_tensor(crop: Samples) -> Tensor:
    return torch.from_numpy(to_floats(crop)).permute(2, 0, 1).sub_(0.5).div_(0.5)
