"""Kernels that are compiled ahead, without a GPU, and where Triton finds them later.

Triton compiles a kernel when it is first launched with a new signature, and keeps it in `TRITON_CACHE_DIR` under a key
of its source, its signature, the compiler and the GPU's compute capability. Nothing of a driver is part of the key. So
`CompileOnly` stands in for the driver: Triton then takes every step of a launch but the launch itself.

One thing is left for the first start with a GPU: Triton's launcher, a C file that is linked against the driver's
library. Its key has the folder of that library, which only the machine with the driver knows.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.cache import FileCacheManager

BUILT = Path(__file__).parent / "built"
"""Triton's cache folder of an image: kernels that are only read."""
SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Compute capabilities that kernels are compiled for (90: 9.0), and the shared memory that a block can have there, from
the CUDA C++ programming guide, "technical specifications per compute capability"."""


class Cache(FileCacheManager):  # type: ignore[misc]  # Triton has no types
    """Triton's cache: kernels of `BUILT`, which may be read-only, all others in `TRITON_CACHE_DIR`. It is chosen by
    `TRITON_CACHE_MANAGER=server.kernels.cuda.ahead:Cache`."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        ready = BUILT / key
        if override or dump or not any(ready.glob("__grp__*")):
            super().__init__(key, override, dump)
        else:  # the base class would make the folder of this key in the other place
            self.key, self.lock_path, self.cache_dir = key, None, str(ready)


class CompileOnly(DriverBase):  # type: ignore[misc]  # Triton has no types
    """Triton's driver for a GPU that is not here: kernels are compiled for it, and none is launched."""

    def __init__(self, capability: int) -> None:
        """`capability`: 90 for 9.0."""
        self._target = GPUTarget("cuda", capability, 32)
        shared = {"max_shared_mem": SHARED_BYTES[capability]}  # Triton refuses a kernel that needs more
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: shared,
            load_binary=lambda name, kernel, shared, device: (name, None, 0, 0, 1024),
            unload_module=lambda module: None,
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: None

    @classmethod
    def is_active(cls) -> bool:
        return False  # never chosen by Triton itself

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_device(self) -> int:
        return int(self._target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError("there is no GPU")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("there is no GPU")
