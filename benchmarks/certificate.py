"""What a certificate costs beside the job that it belongs to: CPU seconds, and memory above the job's.

python -m benchmarks.certificate [PICTURE] [--scale 4] [--format png] [--model RealESRGAN_x4plus]
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from server.config import Config
from server.job.job import Params
from server.pipeline import certificate
from server.weights.catalog import Catalog
from server.worker.loop import memory_bytes
from server.worker.upscaler import Upscaler

_LOOK_S = 0.005


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Bytes of this process: at the beginning, and at most."""
    seen = [memory_bytes()] * 2
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_S):
            seen[1] = max(seen[1], memory_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    done.set()
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path, default=Path("demo/photo.jpg"))
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--format", default="png")
    parser.add_argument("--model", default="RealESRGAN_x4plus")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        config = Config(data_dir=Path(folder), device="cpu")
        upscaler = Upscaler(config, Catalog.of(config))
        params = Params(scale=given.scale, format=given.format, model=given.model)
        upscaler.load(params)
        ctx = upscaler.prepare(params, given.picture.read_bytes(), Path(folder) / "result")
        started = time.process_time()
        upscaler.run(ctx)
        job_s = time.process_time() - started
        with _peak() as bytes_:
            started = time.process_time()
            certificate.run(ctx)
            own_s = time.process_time() - started
        assert ctx.plan is not None
        w, h = ctx.plan.result
        more = (bytes_[1] - bytes_[0]) / 1e6
        print(f"{given.picture.name}, {given.model}, {w}×{h} {given.format}")
        print(f"job {job_s:.2f} CPU s, certificate {own_s:.2f} CPU s: {100 * own_s / job_s:.1f} %; {more:.0f} MB more")


if __name__ == "__main__":
    main()
