"""Why a GPU can't be used, in words, and which errors mean that it is broken. On a device that stands in for a GPU."""

import pytest
import structlog
import torch
from structlog.testing import capture_logs

from server.engine import cuda
from server.engine import device as devices
from server.errors import Unavailable
from tests.engine.fake_device import CUDA, FakeDevice

TOO_OLD = RuntimeError(
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver.\nmore"
)


def test_gpus_that_only_nvml_sees_are_refused_in_words_and_auto_says_why_it_takes_the_cpu(
    gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "log", structlog.get_logger())  # others may have bound it to their own output
    gpu.seen_by_nvml, gpu.seen_by_cuda = 2, 0
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(Unavailable, match=r"NVML sees 2 GPUs, but CUDA sees none.*R580"):
            devices.pick_device(wanted)
    with capture_logs() as logs:
        assert devices.pick_device("auto").type == "cpu"
    assert "a GPU is here, but torch can't use it: NVML sees 2 GPUs" in logs[0]["reason"]
    assert cuda.usable() == []


def test_an_old_driver_is_named_with_torch_s_own_words_and_the_driver_that_is_needed(gpu: FakeDevice) -> None:
    gpu.init_error = TOO_OLD
    with pytest.raises(Unavailable, match=r"driver on your system is too old \(found version 12040\).*R580 or newer"):
        devices.pick_device("cuda:0")
    assert devices.pick_device("auto").type == "cpu"


def test_a_gpu_for_which_torch_has_no_code_is_refused_in_words(gpu: FakeDevice) -> None:
    gpu.name, gpu.capability = "Tesla V100", (7, 0)
    with pytest.raises(Unavailable, match=r"Tesla V100 has compute capability 7\.0, .*sm_75, sm_80.*the device cpu"):
        devices.pick_device("cuda")
    assert devices.pick_device("auto").type == "cpu"


def test_a_gpu_that_works_is_taken(gpu: FakeDevice) -> None:
    assert devices.pick_device("auto") == devices.pick_device("cuda") == CUDA
    assert cuda.unused_gpu() is None and cuda.usable() == [(0, "0000-1")]
    with pytest.raises(Unavailable, match="there is no device 'cuda:3': torch sees 1 GPUs"):
        devices.pick_device("cuda:3")


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 9), ["sm_75", "sm_86"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),
        ((6, 1), ["sm_75"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), ["compute_75"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((12, 1), ["sm_120"], True),
        ((8, 6), [], False),
    ],
)
def test_machine_code_runs_on_later_minor_versions_and_ptx_on_all_later_ones(
    capability: tuple[int, int], archs: list[str], runs: bool
) -> None:
    assert cuda.has_code_for(capability, archs) == runs


OUT_OF_MEMORY = (
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
)
BROKEN = (
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    torch.AcceleratorError("device-side assert triggered"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_running_out_of_memory_is_known_in_the_words_of_every_library(error: RuntimeError) -> None:
    assert devices.is_out_of_memory(error) and not cuda.breaks_device(error)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_broken_device_is_known_in_the_words_of_every_library(error: RuntimeError) -> None:
    assert cuda.breaks_device(error) and not devices.is_out_of_memory(error)


def test_an_error_of_our_own_breaks_no_device() -> None:
    assert not cuda.breaks_device(RuntimeError("shapes do not match")) and not cuda.breaks_device(
        ValueError("CUDA error")
    )


def test_the_probe_tells_a_device_that_computes_from_a_broken_one(gpu: FakeDevice) -> None:
    assert cuda.probe(CUDA)

    def fail(_: str) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    gpu.before = fail
    assert not cuda.probe(CUDA)


def test_a_device_that_does_not_answer_the_probe_is_broken(gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_PROBE_S", 0.01)
    gpu.before = lambda _: gpu.never.wait()
    assert not cuda.probe(CUDA)
