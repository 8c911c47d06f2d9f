"""What the driver's management library says, from a library that stands in for it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from server.engine.nvml import Nvml
from tests import networks
from tests.engine.fake_device import CUDA, FakeDevice


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    load = pynvml.CDLL
    monkeypatch.setattr(pynvml, "CDLL", lambda name: load(str(library) if name == "libnvidia-ml.so.1" else name))
    yield
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()


def test_a_gpu_s_figures_are_read(driver: None, gpu: FakeDevice) -> None:
    nvml = Nvml(CUDA)
    assert nvml.read() == {
        "gpu_utilisation_ratio": 0.87,
        "gpu_memory_used_bytes": 4 << 30,
        "gpu_memory_total_bytes": 24 << 30,
        "gpu_temperature_celsius": 71,
        "gpu_throttled": 1,
        "xid_errors": 2,
    }
    assert nvml.read()["xid_errors"] == 2, "each error is counted once"


def test_without_the_library_or_a_gpu_there_are_none(gpu: FakeDevice) -> None:
    assert Nvml(CUDA).read() == {}
    assert Nvml(networks.CPU).read() == {}
