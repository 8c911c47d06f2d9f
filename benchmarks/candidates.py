"""The candidates of the speed benchmark: ways to run the same networks, by this server and by other programs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from server.engine import device as devices
from server.engine.engine import Engine
from server.kernels.cpu import Kernel
from server.kernels.cpu import load as load_kernel
from server.kernels.cpu.build import Wanted
from server.models import load_model, load_state
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from server.weights.catalog import FOLDER

Samples = NDArray[np.uint8]
Run = Callable[[Samples], Samples]

FLOP_PER_PIXEL = {"SRVGG-32": 2_418_048, "RRDBNet-23": 35_853_696}
"""Operations per source pixel; a multiplication and an addition count as two."""
STOCK = "RealESRGANer fp32"
OWN = "ours, own kernels"
AVX2 = ", AVX2"
"""Suffix of the names of candidates that do not use AVX-512."""
REFERENCE = "ours, torch fp32"
_TILE = 512
"""RealESRGANer's tile for pictures of more than its square of pixels: without tiles RRDBNet takes 24 kB per pixel."""


class LeftOut(Exception):
    """This candidate can't run here; the message is the reason."""


def module(name: str, path: Path) -> nn.Module:
    net: nn.Module = SRVGGNetCompact(num_conv=32) if name.startswith("SRVGG") else RRDBNet(3, 3, num_block=23)
    net.load_state_dict(load_state(path))
    return net.eval().requires_grad_(False)


def make_weights(folder: Path) -> dict[str, Path]:
    """The compact network with the bundled weights; the large one with random weights, scaled so that results are
    pictures: its speed is right, but its errors say little about trained weights."""
    torch.manual_seed(0)
    large = RRDBNet(3, 3, num_block=23).eval()
    with torch.no_grad():
        result = large(torch.rand(1, 3, 32, 32))
        large.conv_last.weight.div_(result.std() * 4)
        large.conv_last.bias.add_(0.5 - result.mean() / (result.std() * 4))
    torch.save({"params_ema": large.state_dict()}, folder / "RRDBNet-23.pth")
    bundled = load_state(FOLDER / "bundled" / "fidelity-x4.safetensors")
    torch.save({"params_ema": bundled}, folder / "SRVGG-32.pth")
    return {name: folder / f"{name}.pth" for name in FLOP_PER_PIXEL}


def picture(width: int, height: int) -> Samples:
    """Waves, edges and grain; constant input would run faster than real pictures."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 64
    image = np.stack([np.sin(x * k) * np.cos(y / k) + ((x + y) % 2 > 1) for k in (1.0, 1.7, 2.3)], -1)
    return np.clip(image * 60 + 100 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


# --- candidates: weights → a function from samples to samples ---


def ours(path: Path, device: torch.device, dtype: torch.dtype, kernel: Kernel | None = None) -> Run:
    model = load_model(path, name="x", sha256=None, device=device, dtype=dtype, kernel=kernel)
    engine = Engine(device)
    return lambda samples: np.concatenate(list(engine.upscale(model, samples, dtype=np.uint8)))


def own_kernels(name: str, path: Path, device: torch.device, folder: Path, wanted: Wanted = "auto") -> Run:
    kernel = load_kernel(wanted=wanted)
    if not isinstance(kernel, Kernel) or device.type != "cpu":
        raise LeftOut(f"{kernel}" if device.type == "cpu" else "for the CPU")
    return ours(path, device, torch.float32, kernel)


def own_avx2(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return own_kernels(name, path, device, folder, "avx2")


def torch_fp32(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return ours(path, device, torch.float32)


def torch_half(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return ours(path, device, torch.float16 if device.type == "cuda" else torch.bfloat16)


def stock(name: str, path: Path, device: torch.device, folder: Path, half: bool = False) -> Run:
    from realesrgan import RealESRGANer

    def run(samples: Samples) -> Samples:
        helper.tile_size = _TILE if samples.shape[0] * samples.shape[1] > _TILE**2 else 0
        result: Samples = helper.enhance(samples[:, :, ::-1])[0][:, :, ::-1]
        return result

    helper = RealESRGANer(4, str(path), model=module(name, path), pre_pad=0, half=half, device=device)
    return run


def stock_avx2(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    if device.type != "cpu":
        raise LeftOut("for the CPU")
    return stock(name, path, device, folder)


def stock_half(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    if device.type != "cuda":
        raise LeftOut("needs a GPU")
    return stock(name, path, device, folder, half=True)


def plain(net: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Run:
    """A network that gets the whole picture at once."""

    @torch.inference_mode()
    def run(samples: Samples) -> Samples:
        image = torch.from_numpy(samples.copy()).to(device).permute(2, 0, 1)[None].float() / 255
        result = net(image)[0].float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
        return np.asarray(result.permute(1, 2, 0).cpu())

    return run


def spandrel(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    from spandrel import ModelLoader

    return plain(ModelLoader(device).load_from_file(path).model.eval(), device)


def compiled(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    dtype = torch.float16 if device.type == "cuda" else devices.pick_dtype("auto", device)
    net = module(name, path).to(device, dtype).to(memory_format=torch.channels_last)
    fast = torch.compile(net)
    return plain(lambda image: fast(image.to(dtype, memory_format=torch.channels_last)), device)


def onnx_file(name: str, path: Path, folder: Path) -> Path:
    target = folder / f"{name}.onnx"
    if not target.exists():
        axes = {"image": {2: "h", 3: "w"}}
        example = (torch.rand(1, 3, 32, 32),)
        torch.onnx.export(
            module(name, path), example, str(target), input_names=["image"], dynamic_axes=axes, dynamo=False
        )
    return target


def onnxruntime(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else ["CPUExecutionProvider"]
    if not set(providers) <= set(onnxruntime.get_available_providers()):
        raise LeftOut("this build has no CUDA")
    session = onnxruntime.InferenceSession(str(onnx_file(name, path, folder)), options, providers=providers)
    return plain(lambda image: torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0]), device)


def openvino(name: str, path: Path, device: torch.device, folder: Path, precision: str = "f32") -> Run:
    if device.type != "cpu":
        raise LeftOut("for the CPU")
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    net = openvino.Core().compile_model(onnx_file(name, path, folder), "CPU", settings)
    return plain(lambda image: torch.from_numpy(net(image.numpy())[0].copy()), device)


def openvino_bf16(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return openvino(name, path, device, folder, "bf16")


def ncnn(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    if device.type != "cpu":
        raise LeftOut("for the CPU here")
    import ncnn
    import pnnx

    base = folder / f"{name}-ncnn.pt"
    pnnx.export(module(name, path), str(base), (torch.rand(1, 3, 64, 64),), (torch.rand(1, 3, 96, 80),))
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.load_param(str(folder / f"{name}-ncnn.ncnn.param"))
    net.load_model(str(folder / f"{name}-ncnn.ncnn.bin"))

    def run(image: torch.Tensor) -> torch.Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0].numpy()).clone())
        return torch.from_numpy(np.array(extractor.extract("out0")[1]))[None]

    return plain(run, device)


Candidate = Callable[[str, Path, torch.device, Path], Run]
CANDIDATES: dict[str, Candidate] = {
    OWN: own_kernels,
    OWN + AVX2: own_avx2,
    "ours, torch half": torch_half,
    REFERENCE: torch_fp32,
    STOCK: stock,
    STOCK + AVX2: stock_avx2,
    "RealESRGANer half": stock_half,
    "spandrel": spandrel,
    "torch.compile, half": compiled,
    "onnxruntime": onnxruntime,
    "OpenVINO f32": openvino,
    "OpenVINO bf16": openvino_bf16,
    "ncnn": ncnn,
}
"""`half`: fp16 on CUDA; on the CPU bf16, for torch.compile only if `dtype: auto` chooses it."""
