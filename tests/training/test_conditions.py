"""The refiner's conditions in training are what the server gives the refiner."""

import numpy as np
import torch

from server.models.basicsr_shim import RRDBNet
from server.rows.colour_lock import locked as served
from training.conditions import Conditions, Large, locked
from training.dataset import to_tensor


def test_colours_are_locked_as_the_server_does_it() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (20, 24, 3), np.uint8)
    result = rng.integers(0, 256, (80, 96, 3), np.uint8)
    expected = np.concatenate(list(served(iter([result]), source, 4, np.uint16))) / 65535
    ours = locked(to_tensor(result[None]), to_tensor(source[None]))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() < 1e-4


def test_the_large_network_is_the_one_that_is_served() -> None:
    torch.manual_seed(0)
    theirs = RRDBNet(num_in_ch=3, num_out_ch=3, scale=4, num_feat=64, num_block=2, num_grow_ch=32).eval()
    ours = Large(blocks=2).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        assert torch.allclose(ours(image), theirs(image), atol=1e-6)


def test_each_pair_has_one_network_and_the_share_is_kept() -> None:
    def small(lr: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 3, 4 * lr.shape[2], 4 * lr.shape[3])

    def large(lr: torch.Tensor) -> torch.Tensor:
        return torch.ones(1, 3, 4 * lr.shape[2], 4 * lr.shape[3])

    conditions = Conditions(small, large, 0.7)
    pairs = [torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(200)]
    by_large = [bool(conditions(lr, lr, False).max() > 0) for lr in pairs]
    assert by_large == [bool(conditions(lr, lr, False).max() > 0) for lr in pairs], "a resumed run sees the same"
    assert 110 < sum(by_large) < 170
