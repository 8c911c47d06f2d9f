"""A path for colour through the fidelity network, set by hand.

A chain of plain convolutions that learns the residual to nearest-neighbour uses its capacity for luma, where the errors
are large. Its features contain too little about the neighbours' colour to smooth even the steps of the enlarged chroma.
(Fitting the last layer to the true colours in closed form changed nothing; see benchmarks/LOG.md.)

So a few channels of each layer carry the changes of colour from the first layer to the last: the differences of R - G
and B - G to the left and upper neighbour. They are exactly zero where a picture is grey or flat. At the picture's
borders, where a convolution pads with zeros, they are made zero too, as if the last pixel were repeated. The last layer
makes the chroma from them. A new network gets the path with its initial weights; a trained network loses those channels
that its other channels can replace best. This command adds the path to a network without one, and fits the last layer's
chroma of any network:

    python -m training.colour --pictures PICTURES --start weights/bundled/fidelity-x4.safetensors --out start.pt
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.dataset import SCALE, Mix, to_tensor
from training.network import Compact, load
from training.pictures import load_training

LUMA = (0.299, 0.587, 0.114)
_DIFFERENCES = ((0, 1), (2, 1), (0, 1), (2, 1))
"""(plus, minus) channel of RGB; the first two are differences along x, the others along y."""
_LINEAR, _GATED, _ENTERED, _LEFT = 4, 8, 5, 8
"""Channels of the path: inside; after the second layer (positive and negative parts); after the first (with a
constant); and before the last (differences to the one and to the other side)."""
LAYERS = 4
"""Activation layers that a network needs for the path."""
PAIRS, MEASURED = 260, 64
MIX = Mix(clean=0.8, light=0.12, recompressed=0.02, screenshot=0.03, synthetic=0.05)


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of the activations of one layer, and how much the result depends on each."""

    mean: Tensor
    covariance: Tensor
    influence: Tensor


def statistics(net: Compact, pictures: Iterable[Tensor]) -> list[Statistics]:
    """Of each activation of `net` on pictures N×3×h×w in [0, 1]."""
    convolutions = _convolutions(net)
    count = len(convolutions) - 1
    width = convolutions[0].out_channels
    total, square, influence = (
        [torch.zeros(*shape, dtype=torch.float64) for _ in range(count)]
        for shape in ((width,), (width, width), (width,))
    )
    pixels = 0
    generator = torch.Generator().manual_seed(0)
    for picture in pictures:
        features, activations = picture, []
        for layer in net.body:
            features = layer(features)
            if isinstance(layer, nn.PReLU):
                features.retain_grad()
                activations.append(features)
        # A random direction of the result: on average over many pixels, all directions.
        features.backward(torch.randn(features.shape, generator=generator))  # type: ignore[no-untyped-call]
        for place, activation in enumerate(activations):
            values = activation.detach().transpose(0, 1).flatten(1).double()
            assert activation.grad is not None
            total[place] += values.sum(1)
            square[place] += values @ values.T
            influence[place] += activation.grad.double().square().sum((0, 2, 3))
        pixels += activations[0][:, 0].numel()
    net.zero_grad()
    found = []
    for place in range(count):
        mean = total[place] / pixels
        covariance = square[place] / pixels - mean[:, None] * mean
        found.append(Statistics(mean, covariance, influence[place] / pixels))
    return found


@torch.no_grad()
def make_room(net: Compact, known: list[Statistics]) -> list[list[int]]:
    """Free in each layer the channels that the others can replace best; returns their numbers."""
    convolutions = _convolutions(net)
    rooms = [_least(each, size) for each, size in zip(known, _sizes(len(known)), strict=True)]
    for after, room, layer in zip(convolutions[1:], rooms, known, strict=True):
        kept = [channel for channel in range(len(layer.mean)) if channel not in room]
        weight = after.weight.double()
        assert after.bias is not None
        # Each freed channel ≈ a linear function of those that stay.
        share = torch.linalg.solve(_ridged(layer.covariance)[kept][:, kept], layer.covariance[kept][:, room])
        constant = layer.mean[room] - layer.mean[kept] @ share
        after.bias += (weight[:, room].sum((2, 3)) @ constant).float()
        weight[:, kept] += torch.einsum("okyx,jk->ojyx", weight[:, room], share)
        weight[:, room] = 0
        after.weight.copy_(weight)
    return rooms


@torch.no_grad()
def lay(net: Compact, rooms: list[list[int]]) -> None:
    """Put the path into the channels `rooms`; the last layer does not use it yet."""
    convolutions = _convolutions(net)
    activations = [layer for layer in net.body if isinstance(layer, nn.PReLU)]
    for convolution, activation, room in zip(convolutions, activations, rooms, strict=False):
        assert convolution.bias is not None
        convolution.weight[room] = 0
        convolution.bias[room] = 0
        activation.weight[room] = 1
    for after, room in zip(convolutions[1:], rooms, strict=True):
        after.weight[:, room] = 0
    first, second, *inner, last = convolutions[:-1]
    assert first.bias is not None and second.bias is not None
    *entered, constant = rooms[0]
    first.bias[constant] = 1
    for which, (plus, minus) in enumerate(_DIFFERENCES):
        y, x = _before(which)
        for channel, sign in ((plus, 1.0), (minus, -1.0)):
            first.weight[entered[which], channel, 1, 1] = sign
            first.weight[entered[which], channel, y, x] = -sign
        # Beyond the border the constant is 0, and -4 is more than any difference.
        for part, sign in ((rooms[1][2 * which], 1.0), (rooms[1][2 * which + 1], -1.0)):
            second.weight[part, entered[which], 1, 1] = sign
            second.weight[part, constant, y, x] = 4
            second.bias[part] = -4
            activations[1].weight[part] = 0
    for place, convolution in enumerate(inner, start=2):
        for which in range(_LINEAR):
            if place == 2:
                convolution.weight[rooms[2][which], rooms[1][2 * which], 1, 1] = 1
                convolution.weight[rooms[2][which], rooms[1][2 * which + 1], 1, 1] = -1
            else:
                convolution.weight[rooms[place][which], rooms[place - 1][which], 1, 1] = 1
    for which in range(_LINEAR):
        y, x = _before(which)
        last.weight[rooms[-1][which], rooms[-2][which], 1, 1] = 1
        last.weight[rooms[-1][which + _LINEAR], rooms[-2][which], 2 - y, 2 - x] = 1


class Fit:
    """Fits the last layer's chroma by least squares, from the end of the path alone: grey and flat areas stay so.

    Luma stays as it is. NOTE: fitting luma too, from all features, made clean pictures 0.2 dB worse: least squares are
    dominated by degraded pairs, whose errors are large.
    """

    def __init__(self, net: Compact, room: list[int]) -> None:
        self.net = net
        self.room = room
        size = len(room) * 9
        self._inputs = torch.zeros(size, size, dtype=torch.float64)
        self._targets = torch.zeros(size, 3 * SCALE**2, dtype=torch.float64)

    @torch.no_grad()
    def add(self, lr: Tensor, hr: Tensor) -> None:
        features = lr
        for layer in list(self.net.body)[:-1]:
            features = layer(features)
        windows = functional.unfold(features[:, self.room], 3, padding=1).transpose(0, 1).flatten(1).double()
        wanted = chroma(hr - functional.interpolate(lr, scale_factor=SCALE))
        targets = functional.pixel_unshuffle(wanted, SCALE).flatten(2).transpose(0, 1).flatten(1).double()
        self._inputs += windows @ windows.T
        self._targets += windows @ targets.T

    @torch.no_grad()
    def apply(self) -> None:
        last = _convolutions(self.net)[-1]
        assert last.bias is not None
        luma = torch.tensor(LUMA)
        for tensor in (last.weight, last.bias):
            by_colour = tensor.view(3, SCALE**2, *tensor.shape[1:])
            by_colour.copy_(torch.einsum("c,c...->...", luma, by_colour).expand_as(by_colour).clone())
        last.weight[:, self.room] += self.solution().float()

    def solution(self) -> Tensor:
        """48 × channels of the path × 3 × 3: the least-squares weights among those that keep a straight ramp of colour
        straight, without steps."""
        inverse = torch.linalg.inv(_ridged(self._inputs))
        free = inverse @ self._targets
        # In a ramp all differences along an axis are equal, and the result's chroma is that number times the distance.
        sums = torch.zeros(_LINEAR, len(self.room), 9, dtype=torch.float64)
        for which in range(_LINEAR):
            sums[which, [which, which + _LINEAR]] = 1
        sums = sums.flatten(1)
        shift = inverse @ sums.T @ torch.linalg.inv(sums @ inverse @ sums.T)
        weight = free + shift @ (_straight() - sums @ free)
        return torch.as_tensor(weight.T.reshape(-1, len(self.room), 3, 3))


def _straight() -> Tensor:
    """The factors of the differences `_DIFFERENCES` of a straight ramp, for each output: 4 × 48."""
    distance = (torch.arange(SCALE, dtype=torch.float64) + 0.5) / SCALE - 0.5
    along_x, along_y = distance.expand(SCALE, SCALE).flatten(), distance[:, None].expand(SCALE, SCALE).flatten()
    wanted = []
    for which, (plus, _) in enumerate(_DIFFERENCES):
        unit = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
        unit[:, plus] = 1
        wanted.append((chroma(unit).flatten()[:, None] * (along_x if which < 2 else along_y)).flatten())
    return torch.stack(wanted)


class Held:
    """Restores the path's weights after each step, so that zeros in grey and flat areas stay exactly zero."""

    def __init__(self, net: Compact, rooms: list[list[int]]) -> None:
        self._kept: list[tuple[Tensor, list[int], Tensor]] = []
        activations = [layer for layer in net.body if isinstance(layer, nn.PReLU)]
        for convolution, activation, room in zip(_convolutions(net), activations, rooms, strict=False):
            assert convolution.bias is not None
            for tensor in (convolution.weight, convolution.bias, activation.weight):
                self._kept.append((tensor, room, tensor.detach()[room].clone()))

    @torch.no_grad()
    def put_back(self) -> None:
        for tensor, room, value in self._kept:
            tensor[room] = value


def chroma(image: Tensor) -> Tensor:
    """N×3×H×W → the same without its luma (BT.601)."""
    return (
        image - torch.einsum("c,nchw->nhw", torch.tensor(LUMA, device=image.device, dtype=image.dtype), image)[:, None]
    )


def find(net: Compact) -> list[list[int]] | None:
    """The path's channels in a network that has one, such as a bundled file; else None."""
    if len(_convolutions(net)) <= LAYERS:
        return None
    first, *others = _convolutions(net)[:-1]
    rows = first.weight.detach().flatten(1)
    rooms = [_where((rows.abs() == 1) | (rows == 0))]
    for convolution in others:
        elsewhere = [channel for channel in range(convolution.in_channels) if channel not in rooms[-1]]
        rooms.append(_where(convolution.weight.detach()[:, elsewhere].flatten(1) == 0))
    if [len(room) for room in rooms] != _sizes(len(rooms)):
        return None
    return rooms


def last_channels(net: Compact) -> list[list[int]]:
    """The channels of the path in an untrained network."""
    count = len(_convolutions(net)) - 1
    width = _convolutions(net)[0].out_channels
    return [list(range(width - size, width)) for size in _sizes(count)]


def _where(rows: Tensor) -> list[int]:
    return [int(row) for row in rows.all(1).nonzero()]


def _before(which: int) -> tuple[int, int]:
    """Position (y, x) in a 3×3 kernel of the neighbour in a difference."""
    return (1, 0) if which < 2 else (0, 1)


def _sizes(count: int) -> list[int]:
    return [_ENTERED, _GATED, *[_LINEAR] * (count - 3), _LEFT]


def _least(layer: Statistics, size: int) -> list[int]:
    """The channels whose removal costs least, one after the other: influence × variance that others don't explain."""
    kept = list(range(len(layer.mean)))
    gone = []
    for _ in range(size):
        unexplained = 1 / torch.linalg.inv(_ridged(layer.covariance)[kept][:, kept]).diagonal()
        gone.append(kept.pop(int((unexplained * layer.influence[kept]).argmin())))
    return sorted(gone)


def _ridged(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(len(matrix), dtype=matrix.dtype) * matrix.diagonal().mean() * 1e-6


def _convolutions(net: Compact) -> list[nn.Conv2d]:
    return [layer for layer in net.body if isinstance(layer, nn.Conv2d)]


def main(argv: list[str] | None = None) -> None:
    from training.cpu import Pairs  # needs packages that a bare GPU machine lacks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder with manifest.csv, or a packed file")
    parser.add_argument("--start", type=Path, required=True, help="the trained network")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="from which the last layer's chroma is fitted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    content = torch.load(args.start, weights_only=True) if args.start.suffix == ".pt" else {}
    net = load(args.start)
    pairs = Pairs(load_training(args.pictures), MIX, args.seed)
    rooms = find(net)
    if rooms is None:
        rooms = make_room(net, statistics(net, (to_tensor(pairs[i][0][None]) for i in range(MEASURED))))
        lay(net, rooms)
    fit = Fit(net, rooms[-1])
    for number in range(args.pairs):
        fit.add(*(to_tensor(each[None]) for each in pairs[number][:2]))
    fit.apply()
    state = {"params_ema": net.state_dict(), "architecture": net.architecture, "step": content.get("step", 0)}
    torch.save(state, args.out)


if __name__ == "__main__":
    main()
