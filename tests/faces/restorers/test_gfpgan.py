"""GFPGAN: the published layout and no other, the same bytes every time, the package's own result."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from server.engine.engine import Engine
from server.errors import ModelNotFound, OutOfMemory
from server.faces.restorers import load as load_restorer
from server.images.read.open import Samples
from server.models import basicsr_shim
from tests.faces import networks
from tests.faces.networks import CPU, ENGINE, GFPGAN


def crop(seed: int = 0) -> Samples:
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16, 3))
    return np.kron(blocks, np.ones((32, 32, 1))).astype(np.uint8)


def published() -> nn.Module:
    """GFPGANv1.4's layout: the class as GFPGANer builds it, with no weights in it."""
    with torch.device("meta"):
        net: nn.Module = basicsr_shim.gfpgan_v1_clean()(**GFPGAN)
    return net


def test_the_layout_of_v1_4_is_loaded_strictly() -> None:
    state = published().state_dict()
    # The release's file has 348,632,874 bytes, its index included.
    assert sum(value.numel() for value in state.values()) * 4 == pytest.approx(348_632_874, rel=3e-4)
    load_restorer({key: torch.zeros(value.shape) for key, value in state.items()}, "GFPGANv1.4", ENGINE, torch.float32)
    for wrong in ("stylegan_decoder.to_rgbs.6.bias", "final_linear.weight", "condition_scale.0.2.weight"):
        for other in ({}, {wrong: state[wrong].flatten()}, {wrong: state[wrong], "more": state[wrong]}):
            changed = {key: value for key, value in state.items() if key != wrong} | other
            with pytest.raises(ModelNotFound, match="don't fit"):
                load_restorer(changed, "GFPGANv1.4", ENGINE, torch.float32)


@pytest.mark.parametrize("name", ["GFPGANv1", "GFPGANBilinear"])
def test_the_first_layouts_are_refused_in_words(name: str) -> None:
    from gfpgan.archs import gfpgan_bilinear_arch, gfpganv1_arch

    arch = {"GFPGANv1": gfpganv1_arch.GFPGANv1, "GFPGANBilinear": gfpgan_bilinear_arch.GFPGANBilinear}[name]
    with torch.device("meta"):
        state = arch(**{**GFPGAN, "narrow": 1 / 16, "channel_multiplier": 1}).state_dict()
    with pytest.raises(ModelNotFound, match=r"v1\.0.*weights pull gfpgan"):
        load_restorer(state, f"{name}.pth", ENGINE, torch.float32)


def test_anything_else_is_refused_in_words() -> None:
    with pytest.raises(ModelNotFound, match=r"is no GFPGAN.*weights pull gfpgan"):
        load_restorer({"body.0.weight": torch.zeros(1)}, "upscaler.pth", ENGINE, torch.float32)


def test_the_same_bytes_every_time_although_the_network_has_noise_in_it() -> None:
    net = networks.gfpgan()
    for each in net.stylegan_decoder.style_convs:
        each.weight.fill_(0.5)
    restorer = networks.restorer(net)
    first, second = restorer([crop()])[0], restorer([crop()])[0]
    np.testing.assert_array_equal(first, second)
    image = torch.from_numpy(crop().astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    one, other = (net(image, return_rgb=False)[0] for _ in range(2))  # as the package is used
    assert not torch.equal(one, other)


def test_faces_are_gfpganer_s() -> None:
    """Its own loop over aligned faces, with one seeded network in both. Noise has no weight, or it would differ from
    itself."""
    from gfpgan.utils import GFPGANer

    net = networks.gfpgan()
    theirs: Any = GFPGANer.__new__(GFPGANer)  # whose __init__ downloads what is not to be had
    theirs.gfpgan, theirs.device = net, CPU
    theirs.face_helper = type("Helper", (), {"clean_all": lambda self: setattr(self, "restored_faces", [])})()
    theirs.face_helper.add_restored_face = lambda face: theirs.face_helper.restored_faces.append(face)
    _, faces, _ = theirs.enhance(np.ascontiguousarray(crop()[..., ::-1]), has_aligned=True)
    ours = np.rint(networks.restorer(net)([crop()])[0] * 255)
    assert faces[0].std() > 20
    assert np.abs(ours - faces[0][..., ::-1]).max() <= 1


def test_the_copying_network_copies() -> None:
    """The tests that follow a face through the pipeline rely on it."""
    samples = crop()
    result = networks.restorer(networks.copying())([samples])[0]
    inside = np.s_[8:24, 8:24]
    np.testing.assert_allclose(result[inside], samples[inside] / 255, atol=0.001)


def test_16_bits_are_the_same_face() -> None:
    restorer = networks.restorer(networks.gfpgan())
    np.testing.assert_allclose(restorer([crop().astype(np.uint16) * 257])[0], restorer([crop()])[0], atol=1e-5)


def test_a_batch_gives_what_each_gives_alone() -> None:
    restorer = networks.restorer(networks.gfpgan())
    together = restorer([crop(0), crop(1)])
    np.testing.assert_allclose(together[0], restorer([crop(0)])[0], atol=1e-4)
    np.testing.assert_allclose(together[1], restorer([crop(1)])[0], atol=1e-4)


class Greedy(nn.Module):
    """As a device on which only `room` faces fit."""

    def __init__(self, net: nn.Module, room: int) -> None:
        super().__init__()
        self.net, self.room = net, room

    def forward(self, image: torch.Tensor, **kwargs: Any) -> Any:
        if len(image) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(image, **kwargs)


def test_out_of_memory_halves_the_batch_and_is_remembered() -> None:
    net, engine = networks.gfpgan(), Engine(CPU)
    restorer = load_restorer(net.state_dict(), "seeded", engine, torch.float32)
    crops = [crop(seed) for seed in range(3)]
    wanted = [restorer([each])[0] for each in crops]
    whole, restorer._net = restorer._net, Greedy(restorer._net, room=1)
    for _ in range(2):
        for face, other in zip(restorer(crops), wanted, strict=True):
            np.testing.assert_allclose(face, other, atol=1e-4)
        assert engine.counters()["batch_retries"] == 1
    restorer._net = Greedy(whole, room=0)
    with pytest.raises(OutOfMemory, match="not even one piece of GFPGAN"):
        restorer([crop()])


def test_what_overflows_is_computed_again_in_fp32() -> None:
    net = networks.gfpgan()
    exact = networks.restorer(net)([crop()])[0]
    half = load_restorer(copy.deepcopy(net).state_dict(), "half", ENGINE, torch.float16)
    assert 0 < np.abs(half([crop()])[0] - exact).max() < 0.05  # it does compute in fp16
    # 100,000 is beyond fp16, and the next layer takes it back.
    net.conv_body_down[0].skip.weight.mul_(1e6)
    net.conv_body_down[1].skip.weight.div_(1e6)
    exact = networks.restorer(net)([crop()])[0]
    half = load_restorer(net.state_dict(), "half", ENGINE, torch.float16)
    np.testing.assert_array_equal(half([crop()])[0], exact)
