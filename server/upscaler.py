"""Everything that turns one encoded picture into another within this process: device, engine, loaded models."""

from collections.abc import Callable
from pathlib import Path

import structlog
import torch

from server import device as devices
from server.config import Config
from server.engine import Engine
from server.job import Params
from server.models import Model, load_model
from server.pipeline import Context, run
from server.weights import Catalog, sha256_of, verify

log = structlog.get_logger()


class Upscaler:
    def __init__(self, config: Config, catalog: Catalog, *, allow_paths: bool = False) -> None:
        """`allow_paths`: a model may also be named by a path, for the operator's own command line. Raises Unavailable
        when the wanted device is not there."""
        self.device = devices.pick_device(config.device)
        self.dtype = devices.pick_dtype(config.dtype, self.device)
        self._config = config
        self._catalog = catalog
        self._allow_paths = allow_paths
        self._engine = Engine(self.device)
        self._models: dict[str, Model] = {}

    def load(self, name: str) -> Model:
        """The model of that name, verified against the manifest and kept. Raises ModelNotFound."""
        path = Path(name)
        if self._allow_paths and (path.suffix in (".pth", ".safetensors") or path.is_file()):
            return self._load(path, path.stem, None)
        checkpoint = self._catalog.get(name)
        return self._load(checkpoint.path, checkpoint.name, verify(checkpoint))

    def _load(self, path: Path, name: str, sha256: str | None) -> Model:
        key = str(path.resolve())
        if key not in self._models:
            model = load_model(
                path,
                name=name,
                sha256=sha256 or (sha256_of(path) if path.is_file() else None),
                device=self.device,
                dtype=self.dtype,
            )
            log.info("model loaded", model=name, arch=model.arch, device=str(self.device), dtype=str(self.dtype))
            self._models[key] = model
        return self._models[key]

    def prepare(self, params: Params, data: bytes) -> Context:
        """A run that has not begun; its progress can be read from another thread."""
        return Context(
            params=params,
            data=data,
            engine=self._engine,
            load=self.load,
            max_source_pixels=self._config.max_source_pixels,
            max_result_pixels=self._config.max_result_pixels,
            tile=self._config.tile,
        )

    def run(self, ctx: Context, check: Callable[[], None] | None = None) -> Context:
        """Run it to the end. `check` is called between steps and tiles, and may raise to stop it."""
        if check is not None:
            ctx.check = check
        run(ctx)
        return ctx

    def describe(self) -> str:
        """For people: device and precision."""
        return f"{devices.describe(self.device)}, {str(self.dtype).removeprefix('torch.')}"


def torch_versions() -> dict[str, str]:
    """For `doctor`."""
    import torchvision

    cuda = f"{torch.version.cuda}, {torch.cuda.device_count()} GPUs seen" if torch.version.cuda else "not in this build"
    return {"torch": torch.__version__, "torchvision": torchvision.__version__, "CUDA": cuda}
