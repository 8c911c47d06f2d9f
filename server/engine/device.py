"""Which device and precision to use, and how to recognise and handle that memory ran out."""

import ctypes
import functools
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import torch

from server.engine import cuda
from server.errors import OutOfMemory, Unavailable

log = structlog.get_logger()

_T = TypeVar("_T")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(wanted: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:N" → an available device. "auto" is the CPU where there is no GPU that torch can
    use; the log then says why. Raises Unavailable."""
    if wanted == "auto":
        if not torch.cuda.device_count() and not torch.cuda.is_available():
            return torch.device("cpu")
        problem = cuda.unused_gpu()
        if problem is not None:
            log.warning("the CPU is used", reason=problem)
        return torch.device("cuda:0" if problem is None else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise Unavailable(f"there is no device {wanted!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise Unavailable(f"devices of type {device.type!r} are not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    problem = cuda.problem(device.index or 0) if torch.cuda.device_count() else None
    if not torch.cuda.device_count():
        problem = f"there is no device {wanted!r}: torch sees 0 GPUs; {cuda.DRIVER}"
    if problem is not None:
        raise Unavailable(problem)
    return torch.device("cuda", device.index or 0)


def pick_dtype(wanted: str, device: torch.device, native: bool = False) -> torch.dtype:
    """ "auto" is fp16 on CUDA, where it is as fast as bf16 and 20 dB nearer to fp32, and on the CPU bf16 where the
    processor multiplies it natively, else fp32. `native`: for networks that run on our own CPU kernels, which are
    faster in fp32 than torch is in bf16. Raises Unavailable for fp16 on the CPU."""
    if wanted == "fp16" and device.type == "cpu":
        raise Unavailable("fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if _has_fast_bf16() and not native else torch.float32


@functools.cache
def _has_fast_bf16() -> bool:
    """NOTE: AVX512-BF16 is not enough. Measured with the networks' 3×3 convolutions: an AMD Zen 5 is 2.3 times as fast
    in bf16 as in fp32, an Intel Emerald Rapids without its AMX half as fast. This is not measured at the start: the
    same machine must give the same bytes also when it is busy."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "amx_bf16" in text or ("avx512_bf16" in text and "AuthenticAMD" in text)


def describe(device: torch.device) -> str:
    """A text such as "NVIDIA H200 (cuda:0)" or "AMD EPYC, 2 threads (cpu)"."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads (cpu)"


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's allocator has an exception class for it; its libraries and the CPU's allocator have only a message."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or cuda.out_of_memory(error):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def unless_out_of_memory(function: Callable[[], _T]) -> _T | None:
    """The result of `function`; None when memory ran out. By then the exception is gone, whose frames hold memory."""
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


class Halving:
    """The size of a batch or of a tile, which is halved when memory runs out and stays so."""

    def __init__(self, what: str, least: str, device: torch.device, size: int, smallest: int = 1) -> None:
        """`what`: for the log, such as "the batch of faces". `least`: for the error, such as "one face"."""
        self.size = size
        self._what, self._least, self._device, self._smallest = what, least, device, smallest

    def run(self, function: Callable[[int], _T], most: int | None = None) -> _T:
        """`function(size)`, again with half the size until it fits. `most`: the largest size that makes a difference.
        Raises OutOfMemory when the smallest size does not fit."""
        while True:
            size = self.size if most is None else min(self.size, most)
            result = unless_out_of_memory(partial(function, size))
            if result is not None:
                return result
            release_memory(self._device)
            if size <= self._smallest:
                raise OutOfMemory(f"not even {self._least} fits on {self._device}")
            self.size = size // 2
            log.warning(f"out of memory: halving {self._what}", size=self.size)


def release_memory(device: torch.device) -> None:
    """Free cached blocks, so that a smaller attempt does not fail because of fragments of the larger one. Host memory
    is given back to the system, because the workers' malloc keeps freed memory: see launch.py."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
