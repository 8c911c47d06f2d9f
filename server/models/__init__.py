"""The networks, one architecture per file; a checkpoint is recognised from its keys and shapes, never from its name."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch

from server.errors import ModelNotFound
from server.kernels.cpu import Kernel
from server.kernels.cpu.network import Network
from server.models import community, ncnn, rrdbnet, srvgg
from server.models.base import Arch, Channels, Model, ModelInfo, StateDict, refuse_channels

ARCHS: tuple[Arch, ...] = (cast(Arch, srvgg), cast(Arch, rrdbnet), cast(Arch, community))
"""In the order in which they are tried."""

__all__ = ["ARCHS", "Arch", "ModelInfo", "Model", "load_blend", "load_model", "load_state", "mix", "recognise"]


def load_model(
    path: Path,
    *,
    name: str,
    sha256: str | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    kernel: Kernel | None = None,
    fused: bool = False,
    scale: int | None = None,
) -> Model:
    """Weights from a file, in the network they belong to, on a device. `kernel`: our own CPU kernels, which run the
    network instead of torch in fp32 on the CPU. `fused`: on our own kernels for GPUs, and in torch for what needs fp32.
    `scale`: as for `recognise`. Raises ModelNotFound when the weights fit no network."""
    return _build(load_state(path), path.name, name, sha256, device, dtype, kernel, fused, scale)


def load_blend(
    parts: Sequence[tuple[Path, float]],
    *,
    name: str,
    sha256: str | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    kernel: Kernel | None = None,
    fused: bool = False,
    scale: int | None = None,
) -> Model:
    """As `load_model`, from several files with the share of each, mixed weight by weight; from a single file as it
    is."""
    if len(parts) == 1:
        path = parts[0][0]
        return load_model(
            path, name=name, sha256=sha256, device=device, dtype=dtype, kernel=kernel, fused=fused, scale=scale
        )
    state = mix([(load_state(path), share) for path, share in parts], name)
    return _build(state, name, name, sha256, device, dtype, kernel, fused, scale)


def mix(parts: Sequence[tuple[StateDict, float]], name: str) -> dict[str, torch.Tensor]:
    """The weighted sum of state dicts of one network (arXiv:1811.10515), in fp32. Raises ModelNotFound when their keys
    or shapes differ; `name`: of the mix, for errors."""
    shapes = [{key: value.shape for key, value in state.items()} for state, _ in parts]
    if any(each != shapes[0] for each in shapes):
        raise ModelNotFound(f"{name} can't be mixed: its networks are not of the same shape")
    return {key: sum((state[key] * share for state, share in parts), torch.zeros(())) for key in shapes[0]}


def _build(
    state: StateDict,
    source: str,
    name: str,
    sha256: str | None,
    device: torch.device,
    dtype: torch.dtype,
    kernel: Kernel | None,
    fused: bool,
    scale: int | None,
) -> Model:
    """`source`: of the weights, for errors."""
    arch, facts = recognise(state, source, scale)
    try:
        net = arch.build(state, facts)
    except RuntimeError as error:
        raise ModelNotFound(f"{source} looks like {facts.name or arch.NAME} but its weights don't fit it") from error
    net = net.eval().requires_grad_(False)
    # Unshuffled pixels are one position of the network.
    work = sum(each.numel() for each in state.values()) / facts.multiple**2
    label = facts.name or arch.NAME
    if kernel is not None and device.type == "cpu" and dtype is torch.float32:
        layers = arch.layers(net, facts)
        if layers is not None:
            network = Network.of(kernel, layers)
            return Model(name, sha256, label, facts, device, dtype, network, _run, work)
    if dtype is not torch.float32 and dtype not in facts.halves:
        dtype = torch.bfloat16 if device.type == "cuda" and torch.bfloat16 in facts.halves else torch.float32
    ours = None
    layers = arch.layers(net, facts) if fused else None
    if layers is not None and layers.usual and facts.channels is Channels.COLOUR:
        from server.kernels.cuda.network import Network as Fused

        ours = Fused(layers, dtype, device)
    net = net.to(device, dtype).to(memory_format=torch.channels_last)

    def forward(net: Any, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return arch.forward(net, facts, image, dtype)

    return Model(name, sha256, label, facts, device, dtype, net, forward, work, ours)


def _run(net: Network, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return net(image[:, : net.channels])


def recognise(state: StateDict, name: str, scale: int | None = None) -> tuple[Arch, ModelInfo]:
    """The architecture with these keys and shapes. `name`: of the checkpoint, for errors. `scale`: what its publisher
    says, where the weights of ×3 can't be told from those of ×2. Raises ModelNotFound, also for a network that does not
    take pictures."""
    for arch in ARCHS:
        facts = arch.detect(state)
        if facts is None:
            continue
        if scale == 3 and arch.NAME == rrdbnet.NAME:
            facts = rrdbnet.tripled(facts) or facts
        if scale not in (None, facts.scale):
            raise ModelNotFound(f"{name} is a network that enlarges ×{facts.scale}, not ×{scale}")
        refuse_channels(facts, name)
        return arch, facts
    known = ", ".join(arch.NAME for arch in ARCHS[:-1])
    more = "and those of spandrel" if community.is_here() else f"and with `{community.INSTALL}` about 40 more"
    raise ModelNotFound(f"{name} holds no network this server knows; it knows {known}, {more}")


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a safetensors, .pth or ncnn .bin file, in fp32, without the containers of training programs.

    A .pth is a pickle: it is read with `weights_only`, which builds tensors and plain containers and nothing else.
    Raises ModelNotFound.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    if path.suffix == ncnn.SUFFIX:
        return ncnn.load_ncnn(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelNotFound(f"{path.name} is not a checkpoint, or a damaged one") from error
    for wrapper in ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelNotFound(f"{path.name} holds no state dict")
    return {
        key.removeprefix("module.").removeprefix("netG."): value.float() if value.is_floating_point() else value
        for key, value in content.items()
    }
