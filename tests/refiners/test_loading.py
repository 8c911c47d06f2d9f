"""The one door to both backends."""

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
from pathlib import Path
import torch
from server.config import Config
from server.refiners import load
from server.weights.catalog import Catalog
from server.weights.refiner import refiner_weights
config = Config(data_dir=Path(sys.argv[1]))
weights = refiner_weights(Catalog.of(config), "auto", "cpu")
assert "diffusers" not in sys.modules
load(weights, torch.device("cpu"), torch.float32, config.data_dir)
print("diffusers" in sys.modules)
"""


def test_loading_imports_what_two_threads_at_once_could_not(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", _CODE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
