"""The networks of the repository, for all tests of the pipeline."""

import pytest
import torch

from server.models import Model
from server.refiners.bundled.refiner import BundledRefiner, load
from server.weights.catalog import FOLDER
from tests import networks


@pytest.fixture(scope="module")
def model() -> Model:
    return networks.load(networks.BUNDLED)


@pytest.fixture(scope="module")
def refiner() -> BundledRefiner:
    path = FOLDER / "bundled" / "refiner.safetensors"
    return load(path, name="refiner", sha256="ab", device=networks.CPU, dtype=torch.float32)
