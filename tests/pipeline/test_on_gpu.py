"""The whole pipeline on a device that stands in for a GPU: the result is the CPU's, within rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from server.engine.engine import Engine
from server.faces import load as load_faces
from server.job.job import Faces, Params
from server.models import load_model
from server.pipeline import Context, run
from server.refiners.bundled.refiner import load as load_refiner
from server.weights.catalog import FOLDER, Weights
from server.weights.faces import FaceWeights
from tests import networks
from tests.engine.fake_device import CUDA, FakeDevice, fake_cuda
from tests.faces import networks as face_networks
from tests.pipeline.test_faces import encoded, portrait


def made(device: torch.device, folder: Path) -> tuple[np.ndarray, Context]:
    """A portrait through the upscaler, the faces and the refiner."""
    folder.mkdir()
    restorer = folder / "restorer.pth"
    torch.save({"params_ema": face_networks.copying((0.06, -0.04, 0.02)).state_dict()}, restorer)

    def weights(path: Path) -> Weights:
        return Weights(path.stem, path, ((path, None),), "", "")

    found = FaceWeights(weights(restorer), weights(face_networks.detector_path()), None)
    path = networks.save(networks.nearest(), folder / "nearest.pth")
    model = load_model(path, name="nearest", sha256=None, device=device)
    engine = Engine(device)
    faces = load_faces(found, engine, torch.float32)
    refiner = load_refiner(
        FOLDER / "bundled" / "refiner.safetensors", name="refiner", sha256=None, device=device, dtype=torch.float32
    )
    ctx = Context(
        params=Params(scale=1.5, creativity=0.5, seed=1, faces=Faces(strength=1)),
        data=encoded(portrait()),
        target=folder / "result",
        engine=engine,
        load=networks.loader(model),
        load_faces=lambda: faces,
        load_refiner=lambda: refiner,
        max_source_pixels=10**8,
        max_result_pixels=10**8,
    )
    run(ctx)
    return np.asarray(Image.open(ctx.target)).astype(int), ctx


@pytest.fixture
def gpu():
    with fake_cuda() as device:
        yield device


def test_a_portrait_is_upscaled_restored_and_refined_as_on_the_cpu(tmp_path: Path) -> None:
    expected, on_cpu = made(networks.CPU, tmp_path / "cpu")
    with fake_cuda() as gpu:
        result, ctx = made(CUDA, tmp_path / "gpu")
    assert [face.reason for face in ctx.faces] == [face.reason for face in on_cpu.faces] == [None]
    assert ctx.refinement is not None and gpu.copies > 3, "it ran there"
    assert all(each.blocking for each in gpu.events), "whoever waits for the GPU sleeps"
    assert np.abs(result - expected).max() <= 1


def test_a_tile_that_overflows_in_the_refiner_is_computed_again_in_fp32(gpu: FakeDevice) -> None:
    path = FOLDER / "bundled" / "refiner.safetensors"
    half, full = (
        load_refiner(path, name="r", sha256=None, device=CUDA, dtype=dtype) for dtype in (torch.float16, torch.float32)
    )
    with torch.no_grad():  # beyond the range of half precision between two layers, and back
        for net in (half._net, full._net):
            convolutions = [each for each in net.modules() if isinstance(each, torch.nn.Conv2d)]
            convolutions[0].weight.mul_(3e4)
            convolutions[-1].weight.mul_(1e-4)
    picture, noisy = torch.rand(1, 3, 64, 64).to(CUDA), torch.randn(1, 3, 64, 64).to(CUDA)
    step = half.scheduler(half.settings(1.0))[1][0]
    result = half.denoise(noisy, picture, step, half.settings(1.0))
    assert half._exact is not None, "it overflowed"
    assert gpu.events and all(each.blocking for each in gpu.events), "known asleep"
    assert result.dtype is torch.float32 and bool(torch.isfinite(result).all())
