"""Reads networks in the format of ncnn (`.bin` beside `.param`), in which Real-ESRGAN's are published as a package.

The `.param` is text: after two lines one layer a line, `type name inputs outputs blobs… key=value…`. The `.bin` holds
the numbers of the convolutions and PReLUs in that order: for a convolution four bytes that say "fp16", the weights
(out, in, kernel, kernel) in fp16, filled up to four bytes, and the bias in fp32; for a PReLU its slopes in fp32.
Source: ncnn's docs/developer-guide (param-and-model-file-structure.md, operators.md).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from server.errors import ModelNotFound

SUFFIX = ".bin"

_PARAM_MAGIC = "7767517"
_FP16_FLAG = 0x01306B47
_OUTPUTS, _KERNEL, _BIAS, _WEIGHTS = "0", "1", "5", "6"
"""Keys of a convolution's line."""
_DENSE_CONVOLUTIONS = 5
_DENSE_BLOCKS = 3
_AROUND = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


@dataclass(frozen=True)
class _Layer:
    kind: str
    values: dict[str, str]

    def number(self, key: str) -> int:
        return int(self.values.get(key, 0))


@dataclass(frozen=True)
class _Numbers:
    """The numbers of one layer in the `.bin`."""

    weight: Tensor
    """Of a convolution (out, in, kernel, kernel); of a PReLU its slopes (channels)."""
    bias: Tensor | None


def load_ncnn(path: Path) -> dict[str, Tensor]:
    """The state dict of the `.bin` at `path`, in fp32, under the keys that basicsr's class gives it. Raises
    ModelNotFound when it is damaged or of an unknown network."""
    try:
        layers = list(_layers(path.with_suffix(".param").read_text("utf-8")))
        content = path.read_bytes()
        numbers = list(_numbers(layers, content))
    except (OSError, ValueError, UnicodeDecodeError, struct.error) as error:
        raise ModelNotFound(f"{path.name} is not a network in ncnn's format, or a damaged one") from error
    named = _srvgg(numbers) if any(layer.kind == "PReLU" for layer in layers) else _rrdbnet(numbers)
    if named is None:
        raise ModelNotFound(f"{path.name} is a network that this server does not know")
    return named


def _layers(text: str) -> Iterator[_Layer]:
    lines = text.splitlines()
    if not lines or lines[0].strip() != _PARAM_MAGIC:
        raise ValueError("not a .param file")
    for line in lines[2:]:
        fields = line.split()
        if len(fields) < 4:
            continue
        blobs = 4 + int(fields[2]) + int(fields[3])
        values = dict(field.split("=", 1) for field in fields[blobs:])
        yield _Layer(fields[0], values)


def _numbers(layers: list[_Layer], content: bytes) -> Iterator[_Numbers]:
    """Raises ValueError when bytes are missing or left over."""
    position = 0

    def take(dtype: str, count: int) -> Tensor:
        nonlocal position
        values = np.frombuffer(content, dtype, count, position)  # ValueError when there are fewer
        position += -(-values.nbytes // 4) * 4
        return torch.from_numpy(values.astype(np.float32))

    for layer in layers:
        if layer.kind == "PReLU":
            yield _Numbers(take("<f4", layer.number("0")), None)
        if layer.kind != "Convolution":
            continue
        (flag,) = struct.unpack_from("<I", content, position)
        position += 4
        outputs, kernel, count = layer.number(_OUTPUTS), layer.number(_KERNEL), layer.number(_WEIGHTS)
        if flag != _FP16_FLAG or min(outputs, kernel, count) < 1 or count % (outputs * kernel * kernel):
            raise ValueError("a convolution of another kind")
        weight = take("<f2", count).reshape(outputs, -1, kernel, kernel)
        yield _Numbers(weight, take("<f4", outputs) if layer.number(_BIAS) else None)
    if position != len(content):
        raise ValueError("bytes are left over")


def _rrdbnet(numbers: list[_Numbers]) -> dict[str, Tensor] | None:
    """conv_first, body.i.rdb{1,2,3}.conv{1…5}, conv_body, conv_up1, conv_up2, conv_hr, conv_last."""
    dense, rest = divmod(len(numbers) - 1 - len(_AROUND), _DENSE_BLOCKS * _DENSE_CONVOLUTIONS)
    if rest or dense < 1:
        return None
    names = ["conv_first"]
    for block in range(dense):
        for part in range(1, _DENSE_BLOCKS + 1):
            names += [f"body.{block}.rdb{part}.conv{index}" for index in range(1, _DENSE_CONVOLUTIONS + 1)]
    return _named([*names, *_AROUND], numbers)


def _srvgg(numbers: list[_Numbers]) -> dict[str, Tensor] | None:
    """A chain: body.0, body.1, … are convolutions and PReLUs in turn."""
    return _named([f"body.{index}" for index in range(len(numbers))], numbers)


def _named(names: list[str], numbers: list[_Numbers]) -> dict[str, Tensor]:
    state = {}
    for name, each in zip(names, numbers, strict=True):
        state[f"{name}.weight"] = each.weight
        if each.bias is not None:
            state[f"{name}.bias"] = each.bias
    return state
