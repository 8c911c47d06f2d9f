"""Kernels that were compiled ahead, without a GPU, are the ones that Triton looks for when it has one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.kernels.cuda import ahead
from server.kernels.cuda.ahead import Cache
from tests.paths import ROOT

LAUNCH = '''
import sys
import torch
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime import driver
from server.config import load_config
from server.engine.backends.fused import log_compilations
from server.engine.prebuild import networks
from server.kernels import Layers
from server.kernels.cuda.network import Network
from server.models import rrdbnet
from server.models.basicsr_shim import RRDBNet
from server.kernels.cuda.ahead import CompileOnly
from server.weights.catalog import Catalog


class Driver(CudaDriver):
    """NVIDIA's driver as Triton knows it, up to the functions of the GPU itself."""

    def __init__(self, capability):
        self.get_current_device = lambda: 0
        self.get_device_capability = lambda device: divmod(capability, 10)
        self.get_current_stream = lambda device: 0
        self.utils = CompileOnly(capability).utils

    launcher_cls = CompileOnly.launcher_cls


PICTURES = ((3, 12, 30, 3, torch.uint8), (1, 8, 512, 3, torch.int16), (2, 4, 128, 1, torch.uint8))
capability, what = int(sys.argv[1]), sys.argv[2]
driver.set_active(Driver(capability))
log_compilations()
if what == "unknown":
    net = RRDBNet(3, 3, scale=4, num_feat=16, num_block=1, num_grow_ch=16).requires_grad_(False)
    nets = [Network(rrdbnet.layers(net, rrdbnet.detect(net.state_dict())), torch.float16, torch.device("cpu"))]
else:
    nets = list(networks(Catalog.of(load_config())))
with torch.inference_mode():
    for network in nets:
        network.capability = divmod(capability, 10)
        for n, h, w, channels, kind in PICTURES:
            samples = torch.zeros(n, h, w, channels, dtype=kind)
            features, seen = network(samples), torch.zeros(n, 3, dtype=torch.int32)
            for index, result in enumerate((torch.uint8, torch.int16, torch.float32)[:n]):
                network.finish(features, samples, index, slice(1, 5), slice(2, 9), result, seen)
'''


def process(folder: Path, *command: str, **env: str) -> str:
    """Its output. With Triton as it is in a worker (in the processes of tests, kernels are interpreted), but without a
    C compiler."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    kept |= {"PYTHONPATH": str(ROOT), "UPSCALE_DATA_DIR": str(folder / "data"), "PATH": ""}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=kept | env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiler(folder: Path, name: str) -> tuple[Path, Path]:
    """Triton's own, and beside it a list of what it was asked to do."""
    asked, path = folder / f"{name}.asked", folder / name
    there = Path(sys.modules["triton"].__file__ or "").parent / "backends" / "nvidia" / "bin" / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexec {there} "$@"\n')
    path.chmod(0o755)
    return path, asked


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_first_start_compiles_nothing(tmp_path: Path) -> None:
    """For one kind of GPU of each of Triton's two assemblers. The kernels are read-only, as in an image."""
    built, own = tmp_path / "built", tmp_path / "own"
    process(tmp_path, "-m", "server.engine.prebuild", "--capabilities", "80", "120", "--folder", str(built))
    before = sorted(built.rglob("*"))
    assert sum(each.suffix == ".cubin" for each in before) > 100
    for each in (*before, built):
        each.chmod(each.stat().st_mode & ~0o222)
    # `BUILT` is beside the code; here it is elsewhere.
    (tmp_path / "placed.py").write_text(
        f"import pathlib\nfrom server.kernels.cuda import ahead\nahead.BUILT = pathlib.Path({str(built)!r})\n"
        "Cache = ahead.Cache\n"
    )
    (tmp_path / "launch.py").write_text(LAUNCH)
    path, asked = compiler(tmp_path, "ptxas")
    later, asked_later = compiler(tmp_path, "ptxas-blackwell")
    env = {
        "TRITON_CACHE_DIR": str(own),
        "TRITON_CACHE_MANAGER": "placed:Cache",
        "TRITON_PTXAS_PATH": str(path),
        "TRITON_PTXAS_BLACKWELL_PATH": str(later),
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
    }
    for capability in ("80", "120"):
        assert process(tmp_path, str(tmp_path / "launch.py"), capability, "known", **env) == ""
    runs = asked.read_text().splitlines() + asked_later.read_text().splitlines()
    assert set(runs) == {"--version"}
    assert not own.exists() and sorted(built.rglob("*")) == before
    said = process(tmp_path, str(tmp_path / "launch.py"), "120", "unknown", **env)
    assert "compiled a GPU kernel" in said and "convolve" in said
    assert any("--gpu-name=sm_120" in each for each in asked_later.read_text().splitlines())
    assert list(own.rglob("*.cubin")) and sorted(built.rglob("*")) == before


def test_what_was_not_compiled_ahead_is_kept_in_the_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, own = tmp_path / "built", tmp_path / "own"
    monkeypatch.setattr(ahead, "BUILT", ready)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(ready))
    first = ahead.FileCacheManager("KEY")
    first.put_group("k.json", {"k.json": first.put(b"{}", "k.json")})
    monkeypatch.setenv("TRITON_CACHE_DIR", str(own))
    assert Cache("KEY").get_group("k.json") == {"k.json": str(ready / "KEY" / "k.json")}
    assert not own.exists()
    other = Cache("OTHER")
    assert other.get_group("k.json") is None
    assert other.put(b"{}", "k.json") == str(own / "OTHER" / "k.json")
    (ready / "BROKEN").mkdir()
    (ready / "BROKEN" / "k.cubin").write_bytes(b"")  # without its list of files
    assert Cache("BROKEN").cache_dir == str(own / "BROKEN")
