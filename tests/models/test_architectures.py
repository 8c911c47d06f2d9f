"""Architectures of the extra `models`: spandrel's results, its facts, and tiles without seams."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.models import load_model
from server.models.base import Channels
from tests import networks
from tests.engine.test_engine import photo_like, run
from tests.paths import ROOT

spandrel = pytest.importorskip("spandrel", reason="extra `models`")
archs = spandrel.architectures


def span() -> nn.Module:
    return archs.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=24, upscale=2, norm=False)  # type: ignore[no-any-return]


def real_plksr() -> nn.Module:
    return archs.PLKSR.RealPLKSR(dim=16, n_blocks=2, upscaling_factor=4)  # type: ignore[no-any-return]


def swin_ir() -> nn.Module:
    return archs.SwinIR.SwinIR(  # type: ignore[no-any-return]
        img_size=48, window_size=8, depths=[2, 2], embed_dim=12, num_heads=[2, 2], upscale=2, upsampler="pixelshuffle"
    )


def dat() -> nn.Module:
    return archs.DAT.DAT(  # type: ignore[no-any-return]
        img_size=64, embed_dim=32, split_size=[8, 8], depth=[2], num_heads=[2], upscale=2, upsampler="pixelshuffle"
    )


def dn_cnn() -> nn.Module:
    return archs.DnCNN.DnCNN(in_nc=1, out_nc=1, nc=16, nb=6)  # type: ignore[no-any-return]


def scu_net() -> nn.Module:
    return archs.SCUNet.SCUNet(in_nc=3, config=[1] * 7, dim=64)  # type: ignore[no-any-return]


def esrgan_plus() -> nn.Module:
    return archs.ESRGAN.ESRGAN(num_filters=16, num_blocks=1, scale=4, plus=True)  # type: ignore[no-any-return]


NETWORKS = [
    # network, its name, scale, half
    (esrgan_plus, "ESRGAN", 4, True),
    (span, "SPAN", 2, True),
    (real_plksr, "PLKSR", 4, False),
    (swin_ir, "SwinIR", 2, False),
    (dat, "DAT", 2, False),
    (scu_net, "SCUNet", 1, True),
    (dn_cnn, "DnCNN", 1, False),
]


@pytest.mark.parametrize(("build", "name", "scale", "half"), NETWORKS)
def test_a_network_gives_what_spandrel_does(
    build: Callable[[], nn.Module], name: str, scale: int, half: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    state = build().eval().state_dict()
    torch.save({"params": state}, tmp_path / "net.pth")
    model = networks.load(tmp_path / "net.pth")
    facts = model.facts
    assert (model.arch, facts.scale, torch.float16 in facts.halves, facts.recordable) == (name, scale, half, False)
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(state))
    for height, width in ((1, 1), (13, 30)):
        samples = photo_like(height, width)
        padded = np.pad(samples, ((0, -height % facts.multiple), (0, -width % facts.multiple), (0, 0)), "edge")
        image = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            if facts.channels is Channels.GREY:
                wanted = torch.cat([theirs(image[:, c : c + 1]) for c in range(3)], dim=1)
            else:
                wanted = theirs(image)
        found = run(model, padded, 0)
        assert found.shape == (padded.shape[0] * scale, padded.shape[1] * scale, 3)
        assert np.abs(found - wanted[0].permute(1, 2, 0).numpy()).max() <= 0.5 / 255
        assert run(model, samples, 0).shape == (height * scale, width * scale, 3)


SLOW = {"SwinIR", "SCUNet"}


@pytest.mark.parametrize(
    ("build", "name", "scale", "half"),
    [pytest.param(*each, marks=[pytest.mark.slow] if each[1] in SLOW else []) for each in NETWORKS],
)
def test_its_tiles_have_no_seams(
    build: Callable[[], nn.Module], name: str, scale: int, half: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(build().eval().state_dict(), tmp_path / "net.pth")
    model = networks.load(tmp_path / "net.pth")
    engine = Engine(networks.CPU)
    tile = engine.geometry(model, 16).tile  # the smallest that is useful
    side = tile + 64
    samples = photo_like(side, side)
    assert (engine.tiles(model, (side, side), side), engine.tiles(model, (side, side), tile)) == (1, 4)
    assert np.abs(run(model, samples, side) - run(model, samples, tile)).max() <= 2 / 255


def test_half_precision_is_used_where_the_network_allows_it(tmp_path: Path) -> None:
    for build, expected in ((span, torch.float16), (swin_ir, torch.float32)):
        torch.save(build().state_dict(), tmp_path / "net.pth")
        assert networks.load(tmp_path / "net.pth", dtype=torch.float16).dtype is expected
    torch.save(span().state_dict(), tmp_path / "net.pth")
    half, full = networks.load(tmp_path / "net.pth", dtype=torch.bfloat16), networks.load(tmp_path / "net.pth")
    image = torch.rand(2, 3, 20, 16)
    assert half.dtype is torch.bfloat16
    assert (half(image, exact=True) - full(image)).abs().max() < 0.02  # its weights stay rounded
    assert (half(image) - full(image)).abs().mean() < 0.02


def test_a_network_for_masks_or_faces_is_refused(tmp_path: Path) -> None:
    state = {"params": archs.LaMa.LaMa().state_dict()} if hasattr(archs.LaMa, "LaMa") else None
    assert state is not None
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelNotFound, match="LaMa, a network for pictures with a mask"):
        networks.load(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript archive:UserWarning")
def test_spandrel_reads_no_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.jit.script(nn.Conv2d(3, 3, 3)).save(tmp_path / "scripted.pt")  # type: ignore[no-untyped-call]
    for name in ("evil.pth", "scripted.pt"):
        with pytest.raises(ModelNotFound, match="not a checkpoint"):
            load_model(tmp_path / name, name="x", sha256=None, device=networks.CPU)
    assert not (tmp_path / "executed").exists()


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    torch.save(span().state_dict(), tmp_path / "net.pth")
    code = (
        "import sys; sys.modules['spandrel'] = None\n"
        "from server.errors import ModelNotFound\n"
        "from server.models import load_state, recognise\n"
        "from pathlib import Path\n"
        "try: recognise(load_state(Path(sys.argv[1])), 'net.pth')\n"
        "except ModelNotFound as error: print(error.message)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.pth"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install 'upscale-server[models]'" in found.stdout
