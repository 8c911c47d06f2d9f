"""What NVIDIA's driver says about a GPU: how busy, full and hot it is, whether it slows down, and its errors (Xid)."""

import contextlib
from typing import Any

import structlog
import torch

log = structlog.get_logger()

_XID = 8
"""nvmlEventTypeXidCriticalError."""
_SLOW = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""Reasons for a slower clock: power cap, hardware slowdown, thermal (software, hardware), power brake."""


class Nvml:
    """Of one GPU; for one thread at a time. Without the driver's library, or on a CPU, it says nothing."""

    def __init__(self, device: torch.device) -> None:
        self._api: Any = None
        self._events: Any = None
        self._xids = 0
        if device.type != "cuda":
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            self._gpu = _handle(pynvml, str(torch.cuda.get_device_properties(device).uuid))
            self._api = pynvml
        except Exception as error:  # the library's own class, or that the package or a function is missing
            log.info("no figures of the GPU", reason=str(error))
            return
        with contextlib.suppress(pynvml.NVMLError):  # not in every virtual machine
            events = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(self._gpu, _XID, events)
            self._events = events

    def read(self) -> dict[str, float]:
        """`gpu_utilisation_ratio` (0…1, of the last second or less), `gpu_memory_used_bytes`, `gpu_memory_total_bytes`
        (of all processes), `gpu_temperature_celsius`, `gpu_throttled` (1 if heat or power slows it down), and
        `xid_errors` since the start; what the driver does not know is left out."""
        api, found = self._api, dict[str, float]()
        if api is None:
            return found
        with contextlib.suppress(api.NVMLError):
            found["gpu_utilisation_ratio"] = api.nvmlDeviceGetUtilizationRates(self._gpu).gpu / 100
        with contextlib.suppress(api.NVMLError):
            memory = api.nvmlDeviceGetMemoryInfo(self._gpu)
            found |= {"gpu_memory_used_bytes": memory.used, "gpu_memory_total_bytes": memory.total}
        with contextlib.suppress(api.NVMLError):
            found["gpu_temperature_celsius"] = api.nvmlDeviceGetTemperature(self._gpu, api.NVML_TEMPERATURE_GPU)
        with contextlib.suppress(api.NVMLError):
            reasons = api.nvmlDeviceGetCurrentClocksThrottleReasons(self._gpu)
            found["gpu_throttled"] = float(bool(reasons & _SLOW))
        return found | self._errors()

    def _errors(self) -> dict[str, float]:
        if self._events is None:
            return {}
        with contextlib.suppress(self._api.NVMLError):  # it raises when there is none
            while True:
                event = self._api.nvmlEventSetWait_v2(self._events, 0)
                self._xids += 1
                log.error("the driver reports an error of the GPU", xid=event.eventData)
        return {"xid_errors": self._xids}


def _handle(api: Any, uuid: str) -> Any:
    """torch leaves out what NVML puts before: GPU- for a whole one, MIG- for a part."""
    error: Exception | None = None
    for name in (f"GPU-{uuid}", f"MIG-{uuid}", uuid):
        try:
            return api.nvmlDeviceGetHandleByUUID(name)
        except api.NVMLError as found:
            error = found
    raise RuntimeError(f"NVML does not know the GPU {uuid}: {error}")
