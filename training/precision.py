"""The number format in which convolutions are fastest."""

import time

import torch
from torch.nn import functional

ROUNDS = 6


def fastest(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA; on the CPU the faster of fp32 and bf16 in a short measurement.

    The processor's flags do not tell: of two machines with AVX512-BF16 one ran these convolutions three times as fast
    in bf16, the other twice as fast in fp32.
    """
    if device.type == "cuda":
        return torch.bfloat16
    candidates = (torch.float32, torch.bfloat16)
    return min(candidates, key=dict(zip(candidates, _measure(candidates), strict=True)).__getitem__)


def _measure(candidates: tuple[torch.dtype, ...]) -> list[float]:
    """Seconds of the best round of each. The rounds alternate, so that other work on the machine slows all of them."""
    best = [float("inf")] * len(candidates)
    for _ in range(ROUNDS):
        for i, dtype in enumerate(candidates):
            started = time.perf_counter()
            _forward_and_backward(dtype)
            best[i] = min(best[i], time.perf_counter() - started)
    return best


def _forward_and_backward(dtype: torch.dtype) -> None:
    image = torch.ones(8, 64, 48, 48).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = functional.conv2d(image, weight, padding=1)
    output.sum().backward()  # type: ignore[no-untyped-call]
