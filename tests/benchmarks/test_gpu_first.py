"""The script for the first minutes on a GPU runs in small on the CPU, and needs nothing but torch and Triton."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert facts["verdict"]["triton"] == "right"
