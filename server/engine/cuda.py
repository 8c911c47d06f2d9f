"""Whether torch can use a GPU here, and in words why not; which errors mean that a device is broken."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

DRIVER = "torch for CUDA 13 needs NVIDIA's driver R580 or newer; `nvidia-smi` shows which one is installed"

_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "nable to find an engine to execute this computation",  # cuDNN: no algorithm's workspace fits
)
_BROKEN = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "cuBLAS error")
_PROBE_S = 20.0
"""The probe takes milliseconds. A device that has not answered by then does not work."""


def prepare() -> None:
    """The precision and the algorithms of this process. By default cuDNN multiplies fp32 with the precision of TF32,
    about that of fp16, and may sum in another order from run to run."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    _set_tf32(False)


@contextmanager
def tf32() -> Iterator[None]:
    """In the device's thread: fp32 may be multiplied in TF32, which is several times as fast. For networks whose
    results need not be exact."""
    _set_tf32(True)
    try:
        yield
    finally:
        _set_tf32(False)


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is infinite or NaN. On a GPU this thread sleeps until it is known; reading it at once would
    keep a core busy meanwhile."""
    finite = torch.isfinite(tensor).all()
    if tensor.is_cuda:
        known = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        known.record()
        known.synchronize()
    return bool(finite)


def _set_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def out_of_memory(error: BaseException) -> bool:
    """In the words of CUDA, cuDNN and cuBLAS, which have no exception class of their own for it."""
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _MEMORY)


def breaks_device(error: BaseException) -> bool:
    """Whether the device may be unusable in this process from now on; see `probe`."""
    if isinstance(error, torch.OutOfMemoryError) or out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _BROKEN)


def probe(device: torch.device) -> bool:
    """Whether the device still computes: a small sum, in a thread of its own, because a broken device may hang."""
    answers: list[float] = []

    def ask() -> None:
        try:
            answers.append(float(torch.ones(64, device=device).sum().item()))
        except RuntimeError:
            answers.append(0.0)

    thread = threading.Thread(target=ask, name="probe", daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return answers == [64.0]


def problem(index: int) -> str | None:
    """Why this build of torch can't use the GPU of this index, in words; None if it can. Starts CUDA.

    NOTE: the number of GPUs is not enough. Until CUDA is started, torch asks NVML, which also counts GPUs whose driver
    is too old for CUDA.
    """
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        if not torch.cuda.is_available():
            return f"NVML sees {torch.cuda.device_count()} GPUs, but CUDA sees none; {DRIVER}"
        if index >= torch.cuda.device_count():
            return f"there is no device 'cuda:{index}': torch sees {torch.cuda.device_count()} GPUs"
        capability = torch.cuda.get_device_capability(index)
        if not has_code_for(capability, torch.cuda.get_arch_list()):
            return no_code(index)
        torch.zeros(1, device=torch.device("cuda", index))
    except (RuntimeError, AssertionError) as error:
        return explain(error, index)
    return None


def explain(error: BaseException, index: int = 0) -> str:
    """An error of torch at its start, in words that say what would help."""
    text = _first_line(error)
    if isinstance(error, torch.OutOfMemoryError) or out_of_memory(error):
        return f"the GPU has too little free memory{_free(index)}; another process may use it: `nvidia-smi` shows which"
    if "no kernel image" in text:
        return no_code(index)
    if "driver" in text.lower():
        return f"{text}. {DRIVER}"
    return f"torch can't use the GPU: {text}"


def has_code_for(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether a build with code for `archs`, such as "sm_86" or "compute_90", runs on this compute capability. Machine
    code runs on the same major version from its minor version on; code with a letter, such as "sm_90a", only on exactly
    its own; PTX ("compute_…") on all later ones."""
    for arch in archs:
        kind, _, number = arch.partition("_")
        digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not digits.isdigit():
            continue
        built = int(digits[:-1]), int(digits[-1])
        if kind == "compute" and digits == number and built <= capability:
            return True
        later = digits == number and built[0] == capability[0] and built <= capability
        if kind == "sm" and (built == capability or later):
            return True
    return False


def no_code(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    archs = ", ".join(torch.cuda.get_arch_list()) or "none"
    return (
        f"the GPU {torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, for which this build of "
        f"torch has no code (it has {archs}): install a build of torch that has it, or use the device cpu"
    )


def unused_gpu() -> str | None:
    """Why a GPU that is here is not used; None if there is none, or it can be used."""
    if not torch.cuda.device_count() and not torch.cuda.is_available():
        return None
    found = problem(0)
    return None if found is None else f"a GPU is here, but torch can't use it: {found}"


def usable() -> list[tuple[int, str]]:
    """Index and UUID of each GPU that torch can use."""
    indices = [index for index in range(torch.cuda.device_count()) if problem(index) is None]
    return [(index, str(torch.cuda.get_device_properties(index).uuid)) for index in indices]


def print_usable(write: Callable[[str], object] = sys.stdout.write) -> None:
    """For the launcher, which does not import torch."""
    write(json.dumps(usable()))


def _free(index: int) -> str:
    try:
        free, total = torch.cuda.mem_get_info(index)
    except (RuntimeError, AssertionError):
        return ""
    return f" ({free / 2**30:.1f} of {total / 2**30:.1f} GiB)"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
