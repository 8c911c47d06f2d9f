"""The one door to both backends."""

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
from pathlib import Path
import torch
from server.config import Config
from server.job.creativity import recipe
from server.refiners import load
from server.weights.catalog import Catalog
from server.weights.refiner import refiner_weights
config = Config(data_dir=Path(sys.argv[1]))
weights = refiner_weights(Catalog.of(config), "auto", "cpu")
refiner = load(weights, torch.device("cpu"), torch.float32, config.data_dir)
assert len(refiner.scheduler(recipe(1.0))[1]) == recipe(1.0).steps
print("diffusers" in sys.modules)
"""


def test_the_bundled_refiner_needs_no_diffusers_which_takes_seconds_to_import(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", _CODE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
