"""The kernels for GPUs, compiled without one: every kernel of both networks, for four kinds of GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_kernel_spills_and_all_have_matrix_instructions(tmp_path: Path) -> None:
    """A process of its own: in this one, kernels are interpreted."""
    command = [sys.executable, "-m", "benchmarks.gpu_kernels", "--json", str(tmp_path / "x")]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=env)
    facts = json.loads((tmp_path / "x").read_text("utf-8"))
    for network, count in (("SRVGG-32", 4), ("RRDBNet-23", 12)):
        kernels = facts[network]["kernels"]
        assert len(kernels) == count
        for name, targets in kernels.items():
            assert set(targets) == {"sm_80", "sm_89", "sm_90", "sm_120"}
            for target, code in targets.items():
                assert code["stack"] == code["LDL"] == code["STL"] == 0, f"{name} spills on {target}"
                if name != "tail":
                    wanted = "HGMMA" if target == "sm_90" else "HMMA"
                    assert code[wanted] > 0, f"{name} has no matrix instructions on {target}"
        ours, torch = (facts[network]["bytes_and_launches_per_source_pixel"][way] for way in ("ours", "torch"))
        assert ours["memory"] < torch["memory"] / 1.5 and ours["of it the tail"] < torch["of it the tail"] / 5
