"""The mask of an aligned face, as facexlib makes it."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from server.errors import ModelNotFound
from server.faces import Parser
from server.faces.base import SIDE
from server.faces.parser import soft_mask
from server.images.samples import Floats
from tests.faces import networks
from tests.faces.networks import ENGINE


def portrait() -> Floats:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    return np.stack((rows, columns, 1 - rows), -1).astype(np.float32)


def facexlib_s(classes: Any) -> Any:
    """The lines of FaceRestoreHelper.paste_faces_to_input_image, with its table of classes."""
    colours = [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 255, 0, 0, 0]
    mask = np.zeros(classes.shape)
    for number, colour in enumerate(colours):
        mask[classes == number] = colour
    mask = cv2.GaussianBlur(mask, (101, 101), 11)
    mask = cv2.GaussianBlur(mask, (101, 101), 11)
    mask[:10], mask[-10:], mask[:, :10], mask[:, -10:] = 0, 0, 0, 0
    return mask / 255


def test_the_mask_is_facexlib_s() -> None:
    classes = np.kron(np.random.default_rng(0).integers(0, 19, (8, 8)), np.ones((64, 64), np.int64))
    np.testing.assert_allclose(soft_mask(classes), facexlib_s(classes), atol=1e-3)


@pytest.mark.slow
def test_the_network_sees_the_face_as_it_was_trained_to() -> None:
    net = networks.parser()
    parser = Parser(net.state_dict(), "parsenet", ENGINE)
    seen: list[Any] = []
    parser._net.register_forward_hook(lambda _, inputs, outputs: seen.extend((inputs[0], outputs[0])))
    (mask,) = parser([portrait()])
    image, scores = seen
    np.testing.assert_allclose(image[0].permute(1, 2, 0), portrait() * 2 - 1, atol=1e-6)
    np.testing.assert_array_equal(mask, soft_mask(scores[0].argmax(0).numpy()))
    assert 0.05 < mask.mean() < 0.95  # all or nothing would prove little


def test_what_is_no_parsenet_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="not the ParseNet"):
        Parser({"body.0.weight": torch.zeros(1)}, "upscaler.pth", ENGINE)
