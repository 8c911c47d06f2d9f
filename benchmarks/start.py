"""How long commands take to start, in seconds of CPU: `python -m benchmarks.start [--against CHECKOUT]`.

Medians of runs in turn, with those of a checkout of an earlier commit if one is given, and beside them what cannot be
less: the interpreter alone, with SQLAlchemy, with torch, and with torch and a loaded network.
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.against import parse

COMMANDS = {
    "--help": ["--help"],
    "jobs list": ["jobs", "list"],
    "keys list": ["keys", "list"],
    "weights list": ["weights", "list"],
    "upscale, fidelity-x4": ["upscale", "in.png", "-o", "small.png", "--model", "fidelity-x4"],
    "upscale, RealESRGAN_x4plus": ["upscale", "in.png", "-o", "large.png", "--model", "RealESRGAN_x4plus"],
}
LOADED = (
    "import torch\nfrom pathlib import Path\nfrom server.models import load_model\n"
    "from server.weights.catalog import Catalog\nfound = Catalog(Path('weights')).find({!r})\n"
    "load_model(found.path, name='n', sha256=None, device=torch.device('cpu'))"
)
LEAST = {
    "Python": "pass",
    "with SQLAlchemy": "import sqlalchemy",
    "with torch": "import torch",
    "with torch and fidelity-x4": LOADED.format("fidelity-x4"),
    "with torch and RealESRGAN_x4plus": LOADED.format("RealESRGAN_x4plus"),
}
"""What they are compared with. The networks are loaded as torch runs them, without the work for our own kernels."""


def seconds(command: list[str], checkout: Path, folder: str) -> float:
    """CPU seconds of a process and its children; NaN if it failed, as for a network that an earlier commit lacks."""
    env = os.environ | {"PYTHONPATH": str(checkout), "UPSCALE_DATA_DIR": f"{folder}/data", "OMP_NUM_THREADS": "1"}
    for result in ("small.png", "large.png"):
        Path(folder, result).unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return math.nan
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    given, checkouts = parse(__doc__)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as made:
        folders = {checkout: f"{made}/{number}" for number, checkout in enumerate(checkouts)}
        for checkout, folder in folders.items():
            os.mkdir(folder)
            Image.new("RGB", (32, 24), "orange").save(f"{folder}/in.png")
            seconds(["-m", "server", "keys", "create", "x"], checkout, folder)
        todo = {name: [["-m", "server", *words]] * len(checkouts) for name, words in COMMANDS.items()}
        todo |= {name: [["-c", code]] for name, code in LEAST.items()}
        for name, commands in todo.items():
            pairs = list(zip(commands, folders.items(), strict=False))
            # The first round compiles files, and measures the speed of the networks.
            rounds = [[seconds(command, *place) for command, place in pairs] for _ in range(given.rounds + 1)]
            found[name] = [round(statistics.median(each), 3) for each in zip(*rounds[1:], strict=True)]
            print(f"{name:36}", *(f"{each:8.3f}" for each in found[name]), flush=True)
    text = json.dumps(found)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
