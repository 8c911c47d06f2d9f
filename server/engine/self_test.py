"""A small picture through a network on the device, compared with the CPU's result. It finds a device that does not work
before the first job does."""

import numpy as np
import torch
from numpy.typing import NDArray

from server.engine.cuda import explain
from server.engine.engine import Engine
from server.errors import OutOfMemory, Unavailable
from server.models.base import Model

SIDE = 64
"""Pixels along the side of the picture."""
_LARGEST_ERROR = {torch.float32: 0.5, torch.float16: 2.0, torch.bfloat16: 8.0}
"""Root of the mean squared difference from the CPU's fp32, in levels of 8 bits, above which a device computes
nonsense. Rounding of fidelity-x4 makes a fourth of it at most on the fake device of the tests; the default network was
not measured."""


def self_test(engine: Engine, model: Model, reference: Model) -> float:
    """The difference in levels of 8 bits, a root mean square. `reference`: the same network on the CPU, in fp32. Raises
    Unavailable, with what is wrong in words."""
    picture = _picture()
    try:
        found = _result(engine, model, picture)
    except OutOfMemory as error:
        raise Unavailable(
            f"the self-test failed: {explain(torch.OutOfMemoryError(), engine.device.index or 0)}"
        ) from error
    except RuntimeError as error:
        raise Unavailable(f"the self-test failed: {explain(error, engine.device.index or 0)}") from error
    wanted = _result(Engine(torch.device("cpu")), reference, picture)
    difference = float(np.sqrt(np.mean((found.astype(np.float32) - wanted) ** 2)))
    if difference > _LARGEST_ERROR[model.dtype]:
        raise Unavailable(
            f"the self-test failed: {model.name} gives another picture on {engine.device} than on the CPU "
            f"({difference:.1f} levels of 255 on average): the GPU or its driver is faulty"
        )
    return difference


def _result(engine: Engine, model: Model, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate(list(engine.upscale(model, picture, dtype=np.uint8)))


def _picture() -> NDArray[np.uint8]:
    """Smooth shapes, edges and noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    shapes = np.stack([x, y, (x + y) % 0.5 > 0.25], -1) * 200
    return (shapes + np.random.default_rng(0).integers(0, 32, (SIDE, SIDE, 1))).astype(np.uint8)
