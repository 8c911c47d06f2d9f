"""Faces on a device that stands in for a GPU: what other jobs wait for, and that the result is the CPU's."""

import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from server.engine.engine import Engine
from server.faces import Detector, FaceRestorer, Parser
from server.faces.restorers import load as load_restorer
from server.job.job import Faces
from server.models import load_state
from tests.engine.fake_device import CUDA, FakeDevice, fake_cuda
from tests.faces import networks


def faces_of(engine: Engine, net: torch.nn.Module, seen: list[int] | None = None) -> FaceRestorer:
    """`seen` gets the sizes of the restorer's batches."""
    restorer: Any = load_restorer(net.state_dict(), "seeded", engine, torch.float32)
    if seen is not None:
        restorer._net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return FaceRestorer(Detector(load_state(networks.detector_path()), "retinaface", engine), restorer, None)


def threads_of(gpu: FakeDevice, patch: pytest.MonkeyPatch, *names: str) -> set[str]:
    """The names of the threads that call these functions of OpenCV from now on."""
    threads: set[str] = set()

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (threads.add(threading.current_thread().name), run(*args, **kwargs))[1]

    for name in names:
        patch.setattr(cv2, name, noting(getattr(cv2, name)))
    return threads


def test_only_networks_take_the_device_s_turn_and_the_faces_of_a_picture_share_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, net = networks.picture("two_people.jpg"), networks.copying()
    alone = faces_of(networks.ENGINE, net)(samples, Faces())  # one by one, as on every CPU
    with fake_cuda() as gpu:
        sizes: list[int] = []
        restore = faces_of(Engine(CUDA), net, sizes)
        threads = threads_of(gpu, monkeypatch, "warpAffine", "estimateAffinePartial2D", "resize")
        found = restore(samples, Faces())
        again = restore(samples, Faces())
    assert sizes == [2, 2]
    assert threads == {threading.current_thread().name}
    assert gpu.copies == 2 * 3, "the detector's, the restorer's, and the detector's again for all faces"
    assert all(each.blocking for each in gpu.events), "who waits for them would keep a core busy"
    assert [each.to_dict() for each in found] == [each.to_dict() for each in alone]
    for one, other, same in zip(found, alone, again, strict=True):
        assert one.restored is not None and other.restored is not None and same.restored is not None
        np.testing.assert_allclose(one.restored.image, other.restored.image, atol=1e-4)
        np.testing.assert_array_equal(one.restored.image, same.restored.image)


@pytest.mark.slow
def test_the_masks_of_several_faces_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    state, rng = networks.parser().state_dict(), np.random.default_rng(0)
    faces = [np.kron(rng.random((8, 8, 3)), np.ones((64, 64, 1))).astype(np.float32) for _ in range(2)]
    alone = Parser(state, "parsenet", networks.ENGINE)
    wanted = [alone([face])[0] for face in faces]
    with fake_cuda() as gpu:
        parser = Parser(state, "parsenet", Engine(CUDA))
        threads = threads_of(gpu, monkeypatch, "GaussianBlur")
        found = parser(faces)
    assert gpu.copies == 1 and threads == {threading.current_thread().name}
    for one, other in zip(found, wanted, strict=True):
        assert np.mean(np.abs(one - other)) < 1e-3  # a pixel between two classes may fall on the other side
    assert not np.allclose(wanted[0], wanted[1])
