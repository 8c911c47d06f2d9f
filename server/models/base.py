"""A loaded network with its facts, and what a file in this folder must offer to be an architecture."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from server.kernels import Kernel
from server.kernels.cpu.network import Network

Forward = Callable[[Any, Tensor, torch.dtype], Tensor]
StateDict = Mapping[str, Tensor]


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
    """Hyper-parameters: the keyword arguments of the package's class."""


class Arch(Protocol):
    """An architecture: one module of this folder."""

    NAME: str

    def detect(self, state: StateDict) -> ModelInfo | None:
        """The facts if this state dict is of this architecture, else None. It may be None for exotic variants."""

    def build(self, facts: ModelInfo) -> nn.Module:
        """The package's network, without meaningful weights."""

    def forward(self, net: nn.Module, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Run `net`, whose weights are of `dtype`, on fp32 `image`; the result is fp32."""

    def native(self, net: nn.Module, facts: ModelInfo, kernel: Kernel) -> Network:
        """The same network, with the weights of `net`, on our own CPU kernels."""


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
        return sum(each.nbytes for each in self._net.state_dict().values())

    @torch.inference_mode()
    def __call__(self, image: Tensor, *, exact: bool = False) -> Tensor:
        """Upscale a batch.

        `image`: (N, 3, H, W) float32 RGB in [0, 1] on `self.device`; H and W multiples of `facts.multiple`.
        Returns (N, 3, H·scale, W·scale) float32, not clamped. `exact` computes in fp32 whatever the model's dtype.
        """
        if not exact or self.dtype is torch.float32:
            return self._forward(self._net, image, self.dtype)
        if self._exact is None:
            # fp32 arithmetic with rounded weights: only activations overflow, not weights.
            assert isinstance(self._net, nn.Module)
            self._exact = copy.deepcopy(self._net).float()
        return self._forward(self._exact, image, torch.float32)
