"""A Stable Diffusion XL for tests: built like the real one, as narrow as its classes allow, with seeded weights.

diffusers and transformers are imported where they are used, because each process of the suite imports all test modules.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

CPU = torch.device("cpu")
_WORDS, _WIDTH = 520, 32
_START, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Sdxl:
    base: Path
    control: Path


def sdxl(folder: Path) -> Sdxl:
    """Saved in half precision below `folder`, under the names that the manifest has."""
    from diffusers import EulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    base, control = folder / "sdxl-base", folder / "sdxl-controlnet-tile"
    net = unet()
    net.half().save_pretrained(base / "unet", variant="fp16")
    controlnet(net.float()).half().save_pretrained(control)
    vae().half().save_pretrained(base / "vae", variant="fp16")
    EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
    ).save_pretrained(base / "scheduler")
    for suffix, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        config = CLIPTextConfig(
            vocab_size=_WORDS,
            hidden_size=_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=_WIDTH,
            eos_token_id=_WORDS - 1,
            bos_token_id=_WORDS - 2,
        )
        kind(config).half().save_pretrained(base / f"text_encoder{suffix}", variant="fp16")
        _save_tokenizer(base / f"tokenizer{suffix}", padding=_END if not suffix else "!")
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    return Sdxl(base, control)


def unet() -> "UNet2DConditionModel":
    """Three levels, the outermost without attention; two text widths side by side; sizes and summary added to time."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=(2, 2, 4),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=2 * _WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
    )


def controlnet(net: "UNet2DConditionModel") -> "ControlNetModel":
    """Its last layers start at zero, so that an untrained one does nothing: they are given noise."""
    from diffusers import ControlNetModel

    made: ControlNetModel = ControlNetModel.from_unet(net, conditioning_channels=3)
    for layer in [made.controlnet_cond_embedding.conv_out, *made.controlnet_down_blocks, made.controlnet_mid_block]:
        nn.init.normal_(layer.weight, std=0.05)
    return made


def vae(seed: int = 0) -> "AutoencoderKL":
    """Four levels, attention in the middle. He's noise in every layer keeps the signal's size; what comes out of
    pictures is about as wide as they are."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    net = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        net.decoder.conv_out.weight.mul_(0.3)
    return net.eval().requires_grad_(False)


def _save_tokenizer(folder: Path, padding: str) -> None:
    """Every byte is a word; it and the same at a word's end are all that there is, with one merge."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    letters += [chr(256 + number) for number in range(256 - len(letters))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re"]
    words += [f"<{number}>" for number in range(_WORDS - 2 - len(words))] + [_START, _END]
    special = {"bos_token": _START, "eos_token": _END, "pad_token": padding, "unk_token": _END}
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True})
    )
