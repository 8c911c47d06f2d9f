"""Everything that turns one encoded picture into another within this process: device, engine, loaded models."""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import torch

from server import device as devices
from server.config import Config
from server.engine import Engine
from server.faces import FaceRestorer
from server.faces import load as load_faces
from server.job import Params
from server.models import Model, load_blend, load_model
from server.pipeline import Context, run
from server.weights.catalog import Catalog, DeviceKind
from server.weights.faces import face_weights
from server.weights.own import SUFFIXES
from server.weights.store import sha256_of

log = structlog.get_logger()

_MODELS_KEPT = 4  # a caller who slides the creativity makes one after the other


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
        self._models: OrderedDict[tuple[str, str], Model] = OrderedDict()
        self._faces: FaceRestorer | None = None

    @property
    def kind(self) -> DeviceKind:
        return "cuda" if self.device.type == "cuda" else "cpu"

    def load(self, params: Params, ratio: float = 4.0) -> Model:
        """The network for these parameters and this `ratio` of result to source, verified against the manifest and
        kept. Raises ModelNotFound and InvalidField."""
        path = Path(params.model)
        if self._allow_paths and params.denoise is None and (path.suffix in SUFFIXES or os.sep in params.model):
            return self._load([(path, 1.0)], path.stem, sha256_of(path) if path.is_file() else "")
        blend = self._catalog.choose(params, ratio=ratio, device=self.kind)
        return self._load([(each.path, share) for each, share in blend.parts], blend.name, blend.verify())

    def load_faces(self) -> FaceRestorer:
        """The networks for faces, verified against the manifest and kept. Raises ModelNotFound."""
        if self._faces is None:
            weights = face_weights(self._catalog)
            self._faces = load_faces(weights, self.device, self.dtype)
            log.info("face models loaded", restorer=weights.restorer.name, detector=weights.detector.name)
        return self._faces

    def _load(self, parts: Sequence[tuple[Path, float]], name: str, sha256: str) -> Model:
        key = (name, sha256)
        if key not in self._models:
            if len(parts) == 1:
                model = load_model(parts[0][0], name=name, sha256=sha256, device=self.device, dtype=self.dtype)
            else:
                model = load_blend(parts, name=name, sha256=sha256, device=self.device, dtype=self.dtype)
            log.info("model loaded", model=name, arch=model.arch, device=str(self.device), dtype=str(self.dtype))
            self._models[key] = model
            if len(self._models) > _MODELS_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def prepare(self, params: Params, data: bytes, target: Path) -> Context:
        """A run that has not begun, towards the file `target`; its progress can be read from another thread."""
        return Context(
            params=params,
            data=data,
            target=target,
            engine=self._engine,
            load=self.load,
            load_faces=self.load_faces,
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
