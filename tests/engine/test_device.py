"""Devices and precisions: what `auto` takes, and what is refused."""

import pytest
import torch

from server.engine import device as devices
from server.errors import Unavailable

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", ["mps", "cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_refused_in_words(wanted: str) -> None:
    with pytest.raises(Unavailable, match="use auto, cpu, cuda or cuda:N|torch sees"):
        devices.pick_device(wanted)


def test_fp16_on_the_cpu_is_refused() -> None:
    with pytest.raises(Unavailable, match="fp16 needs a GPU"):
        devices.pick_dtype("fp16", CPU)


@pytest.mark.parametrize("fast", [True, False])
def test_own_kernels_make_auto_fp32_on_the_cpu_and_change_nothing_else(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_fast_bf16", lambda: fast)
    assert devices.pick_dtype("auto", CPU) is (torch.bfloat16 if fast else torch.float32)
    assert devices.pick_dtype("auto", CPU, native=True) is torch.float32
    assert devices.pick_dtype("bf16", CPU, native=True) is torch.bfloat16
    assert devices.pick_dtype("auto", torch.device("cuda", 0), native=True) is torch.float16


def test_running_out_of_memory_is_known_from_every_allocator() -> None:
    assert devices.is_out_of_memory(torch.OutOfMemoryError("no memory for 80 MiB of feature maps"))
    assert devices.is_out_of_memory(MemoryError())
    assert not devices.is_out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert devices.is_out_of_memory(caught.value)
