"""The script for the first minutes on a GPU runs in small on the CPU, and needs nothing but torch and Triton."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu_engine, gpu_first
from tests import networks
from tests.engine.fake_device import CUDA, fake_cuda
from tests.paths import ROOT

BARE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numpy", "cv2", "PIL", "structlog", "pydantic", "torchvision", "httpx"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
import warnings; warnings.simplefilter("ignore")
import benchmarks.gpu_first
"""


def test_it_needs_no_package_but_torch_and_triton() -> None:
    env = os.environ | {"TRITON_INTERPRET": "0"}  # the interpreter needs NumPy, kernels on a GPU do not
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def test_its_engine_step_on_a_device_that_stands_in_for_a_gpu(tmp_path: Path) -> None:
    """The parts see what only a GPU has: batches of several jobs, and the run that records a graph."""
    path = networks.save(networks.srvgg(), tmp_path / "compact.pth")
    with fake_cuda():
        way = gpu_engine._Way(path, CUDA, fused=False)
        sizes = replace(gpu_engine.TINY, runs=5)
        facts = {name: run(way, sizes) for name, run in gpu_engine.PARTS.items()}
    assert facts["same bytes"]["same"]
    assert len(facts["new shape"]["ms"]) == 5 and facts["new shape"]["capture_ms"] is not None
    assert facts["thumbnails"]["one at a time"]["tiles_per_batch"] == 1


def test_its_steps_take_less_than_nine_minutes_together() -> None:
    assert sum(seconds for seconds, _ in gpu_first.steps({}).values()) <= 9 * 60


@pytest.mark.slow
def test_its_dry_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_first", "--json", str(tmp_path / "x")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    facts = json.loads((tmp_path / "x").read_text("utf-8"))
    assert not [name for name, part in facts.items() if "failed" in json.dumps(part)]
    for name in ("right, srvgg", "right, rrdbnet"):
        assert facts[name]["same_bytes_alone"] and facts[name]["same_bytes_again"] and facts[name]["triton_psnr"] > 60
    errors = [way["error"] for tried in facts["triton, rrdbnet"].values() for way in tried.values()]
    assert len(errors) >= 5 and max(errors) < 0.01
    assert facts["verdict"]["triton"] == "right" and facts["verdict"]["engine"] == "right"
    for name in ("SRVGG-32", "RRDBNet-23"):
        found = facts["engine"][f"{name}, torch"]
        assert found["same bytes"]["same"] and len(found["new shape"]["ms"]) == 3
        assert {"one at a time", "four at a time"} == set(found["thumbnails"])
        assert 0 < found["mix"]["busy"] <= 1.01 and found["mix"]["thumbnails"] > 0
        assert "GPU" in facts["engine"][f"{name}, Triton"]["skipped"]
