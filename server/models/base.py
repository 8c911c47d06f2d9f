"""A loaded network with its facts, and what a file in this folder must offer to be an architecture."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from server.errors import ModelNotFound
from server.kernels import Layers
from server.kernels.cpu.network import Network

if TYPE_CHECKING:
    from server.kernels.cuda.network import Network as Fused

StateDict = Mapping[str, Tensor]

_LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in what a network sees that takes one channel and gives three."""


class Channels(Enum):
    """What a network takes, once `for_pictures` has changed its weights."""

    COLOUR = "colour"
    GREY = "grey"
    """One channel: a colour picture goes through it three times, each of its channels alone."""
    WITH_ALPHA = "with alpha"
    """Colour and alpha, which it sees as opaque everywhere: transparency goes through it alone, as grey."""


def channels_of(inputs: int, outputs: int) -> Channels | None:
    """By the network's own numbers of channels; None where it can't be used for pictures."""
    if inputs == 4 and outputs in (3, 4):
        return Channels.WITH_ALPHA
    if inputs == outputs == 1:
        return Channels.GREY
    return Channels.COLOUR if {inputs, outputs} <= {1, 3} else None


class _NoRandomValues(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return function(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are built in this block have neither memory nor values, which the weights would replace.

    NOTE: on the meta device alone, torch imports its compiler to initialise numbers that do not exist: a second of CPU.
    """
    with torch.device("meta"), _NoRandomValues():
        yield


@dataclass(frozen=True)
class ModelInfo:
    """The facts about a network that follow from its state dict."""

    scale: int
    tile: int
    """Side of the smallest useful tile in source pixels, halo included; the engine cuts larger ones where there is
    memory."""
    halo: int
    """Source pixels that are computed and thrown away at each inner side of a tile."""
    blend: int
    """Half width, in source pixels, of the zone in which neighbouring tiles are blended; 0 where the halo is exact."""
    pixel_bytes: int
    """Memory that a source pixel of a tile takes on the device while it is computed by torch in fp32, about."""
    multiple: int
    """Width and height fed to the network must be multiples of this."""
    arguments: dict[str, Any]
    """Hyper-parameters."""
    channels: Channels | None = Channels.COLOUR
    """None: it can't be used for pictures."""
    halves: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
    """The types of 16 bits in which it may run."""
    recordable: bool = True
    """Its run on a GPU can be recorded as a CUDA graph."""
    name: str = ""
    """The architecture's, if its file in this folder is for several."""


class Arch(Protocol):
    """An architecture: one module of this folder."""

    NAME: str

    def detect(self, state: StateDict) -> ModelInfo | None:
        """The facts if this state dict is of this architecture, else None. It may be None for exotic variants."""

    def build(self, state: StateDict, facts: ModelInfo) -> nn.Module:
        """The network with these weights, on the CPU in fp32. Raises RuntimeError if they don't fit."""

    def forward(self, net: nn.Module, facts: ModelInfo, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Run `net`, whose weights are of `dtype`, on fp32 `image`; the result is fp32."""

    def layers(self, net: nn.Module, facts: ModelInfo) -> Layers | None:
        """The same network, with the weights of `net`, for our own code; None if that can't run it."""


Forward = Callable[[Any, Tensor, torch.dtype], Tensor]


@dataclass
class Model:
    """A network ready to run on a device."""

    name: str
    sha256: str | None
    arch: str
    facts: ModelInfo
    device: torch.device
    dtype: torch.dtype
    _net: nn.Module | Network
    _forward: Forward
    work: float = 1.0
    """Multiplications for a source pixel, about: the number of weights, where each is used once for a pixel."""
    fused: "Fused | None" = field(default=None, repr=False)
    """The same network on our own kernels for GPUs, if it was loaded for them."""
    _exact: nn.Module | None = field(default=None, repr=False)

    @property
    def native(self) -> Network | None:
        """The network on our own CPU kernels, if it was loaded for them. It takes samples without conversion."""
        return self._net if isinstance(self._net, Network) else None

    @property
    def weight_bytes(self) -> int:
        """Memory that the loaded weights take."""
        if isinstance(self._net, Network):
            return self._net.weight_bytes
        ours = self.fused.weight_bytes if self.fused is not None else 0
        return ours + sum(int(each.nbytes) for each in self._net.state_dict().values())

    @torch.inference_mode()
    def __call__(self, image: Tensor, *, exact: bool = False) -> Tensor:
        """Upscale a batch.

        `image`: (N, 3, H, W) float32 RGB in [0, 1] on `self.device`; H and W multiples of `facts.multiple`. A network
        for one channel takes the first. Returns (N, 3, H·scale, W·scale) float32, or that one channel, not clamped.
        `exact` computes in fp32 whatever the model's dtype.
        """
        if not exact or self.dtype is torch.float32:
            return self._forward(self._net, image, self.dtype)
        if self._exact is None:
            # fp32 arithmetic with rounded weights: only activations overflow, not weights.
            assert isinstance(self._net, nn.Module)
            self._exact = copy.deepcopy(self._net).float()
        return self._forward(self._exact, image, torch.float32)


def filled(build: Callable[[], nn.Module], state: StateDict) -> nn.Module:
    """What `build` makes, with these weights. Raises RuntimeError if they don't fit."""
    with shapes_only():
        net = build()
    net.load_state_dict(state, strict=True, assign=True)
    return net


def for_pictures(state: StateDict, facts: ModelInfo, first: str, last: str, per_channel: int) -> dict[str, Tensor]:
    """The weights of a network that takes and gives what `facts.channels` says. `first`, `last`: its first and last
    convolution, of which the last gives `per_channel` samples for each channel of the result.

    One channel in, three out: it sees the luma. Three in, one out: the result is grey. Alpha of the result is dropped.
    """
    changed = dict(state)
    inputs, outputs = facts.arguments["num_in_ch"], facts.arguments["num_out_ch"]
    if (inputs, outputs) == (1, 3):
        changed[f"{first}.weight"] = torch.cat([state[f"{first}.weight"] * share for share in _LUMA], dim=1)
    for key in (f"{last}.weight", f"{last}.bias"):
        if (inputs, outputs) == (3, 1):
            changed[key] = torch.cat([state[key]] * 3)
        elif outputs == 4:
            changed[key] = state[key][: 3 * per_channel]
    return changed


def to_network(image: Tensor, facts: ModelInfo) -> Tensor:
    """(N, 3, H, W) → what the network takes."""
    if facts.channels is Channels.GREY:
        return image[:, :1]
    return functional.pad(image, (0, 0, 0, 0, 0, 1), value=1.0) if facts.channels is Channels.WITH_ALPHA else image


def luma(image: Tensor) -> Tensor:
    """(N, 3, H, W) → (N, 1, H, W)."""
    weights = torch.tensor(_LUMA, device=image.device)[:, None, None]
    return (image * weights).sum(1, keepdim=True)


def refuse_channels(facts: ModelInfo, name: str) -> None:
    """Raises ModelNotFound for a network that can't be used for pictures. `name`: of the checkpoint."""
    if facts.channels is None:
        inputs, outputs = facts.arguments["num_in_ch"], facts.arguments["num_out_ch"]
        raise ModelNotFound(
            f"{name} is a network of {inputs} channels that gives {outputs}; usable are 1 or 3 that give 1 or 3, "
            "and 4 that give 3 or 4"
        )
