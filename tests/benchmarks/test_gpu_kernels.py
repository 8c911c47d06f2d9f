"""What is counted for GPUs without one."""

from benchmarks import gpu_kernels


def test_blending_on_the_device_would_spare_a_few_bytes_and_resizing_there_would_add_some() -> None:
    """Why neither is done: see benchmarks/README.md."""
    _, facts, _, network, _ = gpu_kernels.networks()["RRDBNet-23"]
    found = gpu_kernels.crossed(facts, (1920, 1080), 8192, gpu_kernels.predicted(network, 1920, 1080)["ms"])
    floats, today, blended, resized = found["megabytes"].values()
    assert floats == 2 * today and blended == round(1920 * 1080 * 16 * 3 * 2 / 1e6, 1)
    assert 1 < today / blended < 1.05 and resized > today
    assert max(found["ms"].values()) < found["network_ms"] / 5
