"""The embeddings of SDXL's prompt: computed once, then kept in a file.

The prompt says what kind of picture is wanted and is the same for all pictures, so the text encoders (1.6 GB) and the
package `transformers` are needed only the first time.
"""

import gc
import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from server.errors import ModelNotFound, Unavailable
from server.weights.store import sha256_of

log = structlog.get_logger()

POSITIVE = "high quality, highly detailed, sharp focus, fine natural texture, realistic lighting, high resolution"
NEGATIVE = "blurry, low quality, jpeg artifacts, noise, halos, smeared, plastic skin, distorted, watermark"

_FOLDERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


@dataclass(frozen=True)
class Prompt:
    """Float32. The first of each is the negative text, the second the positive one."""

    tokens: Tensor
    """2 × 77 × the widths of both encoders together."""
    pooled: Tensor
    """2 × the width of the second encoder's summary."""


def embedded(base: Path, cache: Path) -> Prompt:
    """The prompt for the SDXL in the folder `base`: read from the folder `cache`, or computed and written there. Raises
    ModelNotFound when a file is missing or damaged, and Unavailable without the package `transformers`."""
    path = cache / f"sdxl-prompt-{_fingerprint(base)}.safetensors"
    try:
        kept = load_file(path)
        return Prompt(kept["tokens"], kept["pooled"])
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, KeyError):
        log.warning("the kept prompt can't be read: computing it again", path=str(path))
    prompt = _computed(base)
    _keep(prompt, path)
    return prompt


def _fingerprint(base: Path) -> str:
    """Depends on the words and on every file of the encoders."""
    digest = hashlib.sha256(f"{POSITIVE}\n{NEGATIVE}\n".encode())
    for folder in _FOLDERS:
        files = sorted(path for path in (base / folder).glob("*") if path.is_file())
        for file in files:
            digest.update(f"{folder}/{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:32]


def _keep(prompt: Prompt, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as partial:
            pass
        save_file({"tokens": prompt.tokens, "pooled": prompt.pooled}, partial.name)
        Path(partial.name).replace(path)
    except OSError as error:
        log.warning("the prompt can't be kept: it will be computed again next time", path=str(path), error=str(error))


def _computed(base: Path) -> Prompt:
    """On the CPU in fp32, whatever device the rest uses: it takes seconds, and gives the same everywhere."""
    try:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise Unavailable(
            "the first start with SDXL needs the package transformers: pip install 'upscale-server[sdxl]'"
        ) from error
    disable_progress_bar()  # type: ignore[no-untyped-call]
    first, _ = _encode(base, "text_encoder", "tokenizer", CLIPTextModel)
    second, pooled = _encode(base, "text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection)
    return Prompt(torch.cat((first, second), dim=-1).contiguous(), pooled.contiguous())


@torch.inference_mode()
def _encode(base: Path, encoder: str, tokenizer: str, kind: Any) -> tuple[Tensor, Tensor]:
    """What SDXL uses of one encoder: the last hidden layer but one, and the pooled output."""
    from transformers import CLIPTokenizer

    folder = base / encoder
    variant = "fp16" if (folder / "model.fp16.safetensors").is_file() else None
    try:
        words = CLIPTokenizer.from_pretrained(base / tokenizer, local_files_only=True)
        model = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, dtype=torch.float32
        ).eval()
    except Exception as error:  # a damaged file may raise anything: `tokenizers` raises plain Exceptions
        raise ModelNotFound(
            f"SDXL's {encoder} or {tokenizer} is missing or damaged: `python -m server weights pull sdxl` gets them"
        ) from error
    numbers = words(
        [NEGATIVE, POSITIVE],
        padding="max_length",
        max_length=model.config.max_position_embeddings,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    answer = model(numbers, output_hidden_states=True)
    tokens, pooled = answer.hidden_states[-2].clone(), answer[0].clone()
    del model, answer
    gc.collect()  # gigabytes in reference cycles
    return tokens, pooled
