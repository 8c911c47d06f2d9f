"""Restores aligned faces: GFPGAN (Wang et al., arXiv:2101.04061), the "clean" network of v1.2, v1.3 and v1.4.

This is the package's unchanged network. Without `randomize_noise=False` it adds noise from the global generator, and
every run gives another face. Its `weight` argument has no effect, so the strength is applied in pasting.

Half precision uses autocast. Plain `.half()` squares modulated weights in fp16; where that overflows, the demodulation
makes them zero, and the face is wrong although all its values are finite.
"""

from functools import partial
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from server.engine.backends.eager import to_image
from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.faces.base import SIDE
from server.images.read.open import Samples
from server.images.samples import Floats
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


def load(state: StateDict, name: str, engine: Engine, dtype: torch.dtype) -> "Gfpgan":
    return Gfpgan(state, name, engine, dtype)


class Gfpgan:
    def __init__(self, state: StateDict, name: str, engine: Engine, dtype: torch.dtype) -> None:
        """`name`: of the checkpoint, for errors. `engine`: runs the network. `dtype`: to multiply in. Raises
        ModelNotFound, also for the older layouts."""
        self._net = _build(_arguments(state, name))
        try:
            self._net.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise ModelNotFound(f"{name} looks like GFPGAN but its weights don't fit it; {PULL}") from error
        self._net.eval().requires_grad_(False).to(engine.device)
        self._engine = engine
        self._dtype = dtype
        self.batch = _CUDA_BATCH if engine.device.type == "cuda" else 1

    def __call__(self, crops: list[Samples]) -> list[Floats]:
        """Aligned faces, SIDE × SIDE × 3 of 8 or 16 bits, → the same faces restored, RGB in [0, 1]. At most `batch`
        of them at once. Raises OutOfMemory."""
        faces = self._restored(np.stack(crops), exact=self._dtype is torch.float32)
        if overflowed := [index for index, face in enumerate(faces) if not np.isfinite(face).all()]:
            log.warning("faces overflowed: computing them again in fp32", faces=len(overflowed), dtype=str(self._dtype))
            again = self._restored(np.stack([crops[index] for index in overflowed]), exact=True)
            for index, face in zip(overflowed, again, strict=True):
                faces[index] = face
        return faces

    def _restored(self, crops: NDArray[Any], exact: bool) -> list[Floats]:
        return list(self._engine.apply("GFPGAN", partial(self._forward, exact=exact), crops))

    def _forward(self, samples: Tensor, exact: bool) -> Tensor:
        """On the device: N × SIDE × SIDE × 3, uint16 as int16 → floats in [0, 1], or NaN where they overflowed."""
        image = to_image(samples).contiguous().sub_(0.5).div_(0.5)
        with torch.autocast(samples.device.type, dtype=self._dtype, enabled=not exact):
            result: Tensor = self._net(image, return_rgb=False, randomize_noise=False)[0]
        result = result.float()
        faces = torch.where(torch.isfinite(result), result.clamp(-1, 1).add_(1).div_(2), torch.nan)
        return faces.permute(0, 2, 3, 1).contiguous()


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
