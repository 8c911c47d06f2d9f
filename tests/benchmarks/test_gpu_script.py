"""The GPU script runs on the CPU, in a small version: on a rented GPU there is no time to fix it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_gpu_script_s_dry_run(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--device", "cpu", "--json", str(tmp_path / "x")]
    subprocess.run(command, check=True, capture_output=True)
    facts = json.loads((tmp_path / "x").read_text())
    assert not {name: part for name, part in facts.items() if isinstance(part, dict) and "failed" in part}
    for name in ("SRVGG-32", "RRDBNet-23"):
        exact = {way: each["max"] for way, each in facts[f"{name} correctness"].items() if way.startswith("fp32")}
        assert len(exact) == 3 and set(exact.values()) == {0}, name
        assert facts[f"{name} same bytes"]["same"]
        assert facts[f"{name} 16 bits and grey"] == {"16 bits": 0, "grey": 0}
        assert facts[f"{name} speed 64x64"]["seconds"]["ours"] > 0
    assert facts["refiner"]["bf16"]["snr_db"] > 20
    assert facts["pipeline"]["counters"]["tiles"] > 0
