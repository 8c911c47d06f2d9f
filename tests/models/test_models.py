"""Checkpoints are recognised from their keys and shapes, loaded strictly, and nothing in them is executed."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from server.errors import ModelNotFound
from server.models import load_model, load_state, recognise, rrdbnet, srvgg
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from tests.paths import ROOT

CPU = torch.device("cpu")
SRVGG_SHAPES = [
    {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "num_feat": 64,
        "num_conv": 32,
        "upscale": 4,
        "act_type": "prelu",
    },  # general-x4v3
    {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "num_feat": 64,
        "num_conv": 16,
        "upscale": 4,
        "act_type": "prelu",
    },  # animevideov3
    {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 12, "num_conv": 3, "upscale": 2, "act_type": "prelu"},
    {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_conv": 5, "upscale": 3, "act_type": "relu"},
]
RRDB_SHAPES = [
    {"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 64, "num_block": 23, "num_grow_ch": 32},  # x4plus
    {"num_in_ch": 3, "num_out_ch": 3, "scale": 2, "num_feat": 64, "num_block": 23, "num_grow_ch": 32},  # x2plus
    {"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 64, "num_block": 6, "num_grow_ch": 32},  # anime_6B
    {"num_in_ch": 3, "num_out_ch": 3, "scale": 1, "num_feat": 10, "num_block": 2, "num_grow_ch": 6},
]


@pytest.mark.parametrize("shape", SRVGG_SHAPES)
def test_srvgg_is_recognised_with_its_hyper_parameters(shape: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = SRVGGNetCompact(**shape).state_dict()
    arch, facts = recognise(state, "x")
    assert arch.NAME == "srvgg"
    assert facts.arguments == shape
    assert (facts.scale, facts.halo, facts.blend) == (shape["upscale"], shape["num_conv"] + 2, 0)


@pytest.mark.parametrize("shape", RRDB_SHAPES)
def test_rrdbnet_is_recognised_with_its_hyper_parameters(shape: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = RRDBNet(**shape).state_dict()
    arch, facts = recognise(state, "x")
    assert arch.NAME == "rrdbnet"
    assert facts.arguments == shape
    assert (facts.scale, facts.multiple) == (shape["scale"], 4 // shape["scale"])


def test_neither_architecture_takes_the_other_or_a_stranger() -> None:
    with torch.device("meta"):
        compact = SRVGGNetCompact(**SRVGG_SHAPES[1]).state_dict()
        dense = RRDBNet(**RRDB_SHAPES[3]).state_dict()
    assert srvgg.detect(dense) is None
    assert rrdbnet.detect(compact) is None
    with pytest.raises(ModelNotFound, match="holds no network this server knows"):
        recognise({"layer.weight": torch.zeros(3, 3)}, "stranger.pth")


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pth_is_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    net = SRVGGNetCompact(**SRVGG_SHAPES[2])
    state = {prefix + key: value for key, value in net.state_dict().items()}
    torch.save({wrapper: state, "config": {"a": 1}} if wrapper else state, tmp_path / "net.pth")
    loaded = load_state(tmp_path / "net.pth")
    assert loaded.keys() == net.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())


def test_params_ema_wins_over_params(tmp_path: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "net.pth")
    assert load_state(tmp_path / "net.pth")["a"].item() == 1


def test_half_precision_safetensors_compute_in_fp32(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in SRVGGNetCompact(**SRVGG_SHAPES[2]).state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    model = load_model(tmp_path / "net.safetensors", name="tiny", sha256=None, device=CPU)
    result = model(torch.rand(2, 3, 9, 7))
    assert (result.shape, result.dtype) == ((2, 3, 18, 14), torch.float32)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"params": Evil()}, protocol=2))
    torch.save({"params": Evil()}, tmp_path / "evil_zip.pth")
    for name in ("evil.pth", "evil_zip.pth"):
        with pytest.raises(ModelNotFound, match="not a checkpoint"):
            load_state(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_garbage_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all" * 10)
    with pytest.raises(ModelNotFound, match="not a checkpoint"):
        load_state(tmp_path / name)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = dict(SRVGGNetCompact(**SRVGG_SHAPES[2]).state_dict())
    del state["body.2.bias"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelNotFound, match="looks like srvgg"):
        load_model(tmp_path / "net.pth", name="x", sha256=None, device=CPU)


def test_half_precision_differs_from_fp32_by_little_and_exact_not_at_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(SRVGGNetCompact(**SRVGG_SHAPES[2]).state_dict(), tmp_path / "net.pth")
    half = load_model(tmp_path / "net.pth", name="x", sha256=None, device=CPU, dtype=torch.bfloat16)
    full = load_model(tmp_path / "net.pth", name="x", sha256=None, device=CPU)
    image = torch.rand(1, 3, 16, 16)
    assert (half(image) - full(image)).abs().max() < 0.02
    assert (half(image, exact=True) - full(image)).abs().max() < 0.005  # the weights stay rounded


def test_the_class_and_our_forward_agree(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for shape, cls in ((SRVGG_SHAPES[2], SRVGGNetCompact), (RRDB_SHAPES[3], RRDBNet)):
        net = cls(**shape).eval()
        torch.save(net.state_dict(), tmp_path / "net.pth")
        model = load_model(tmp_path / "net.pth", name="x", sha256=None, device=CPU)
        image = torch.rand(1, 3, 12, 20)
        with torch.no_grad():
            assert torch.allclose(model(image), net(image), atol=1e-6)


def test_a_network_is_built_without_torchs_compiler_and_without_values() -> None:
    """In a process of its own: initialising tensors without values would import the compiler, a second of CPU."""
    code = (
        "import sys\nfrom server.models import rrdbnet\nfrom server.models.base import shapes_only\n"
        "with shapes_only():\n    net = rrdbnet.RRDBNet(3, 3)\n"
        "print({each.device.type for each in net.parameters()}, 'torch._dynamo' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout == "{'meta'} False\n"
