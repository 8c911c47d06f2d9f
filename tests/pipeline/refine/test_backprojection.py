"""A result that reduces to its source, whatever rectangle of it is looked at."""

import pytest
import torch
from torch.nn import functional

from server.pipeline.refine.backprojection import BackProjection


def smooth(h: int, w: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 3, h // 3 + 1, w // 3 + 1, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, size=(h, w), mode="bicubic", antialias=True).clamp(0, 1)


def reduced(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(image, size=size, mode="bicubic", antialias=True)


@pytest.mark.parametrize("size", [(96, 128), (77, 131), (24, 32), (240, 33)])
def test_the_result_reduces_to_the_source(size: tuple[int, int]) -> None:
    source = smooth(24, 32)
    wrong = functional.interpolate(source, size=size, mode="bicubic") + 0.1 * torch.randn(1, 3, *size)
    before = (reduced(wrong, (24, 32)) - source).abs().mean()
    right = BackProjection(source, (size[1], size[0]))(wrong, 0, 0, 1.0)
    error = (reduced(right, (24, 32)) - source).abs()
    assert before > 3 / 255
    assert error.mean() < 0.7 / 255 and error.quantile(0.99) < 3 / 255


def test_a_share_of_nothing_changes_nothing() -> None:
    source, result = smooth(16, 16), torch.rand(1, 3, 64, 64)
    assert torch.equal(BackProjection(source, (64, 64))(result, 0, 0, 0.0), result)


def test_a_part_comes_out_as_in_the_whole_but_for_its_borders() -> None:
    source, result = smooth(40, 50), torch.rand(1, 3, 130, 170)
    project = BackProjection(source, (170, 130))
    whole = project(result, 0, 0, 1.0)
    part = project(result[..., 20:110, 30:150], 20, 30, 1.0)
    margin = 36
    inner = part[..., margin:-margin, margin:-margin]
    expected = whole[..., 20 + margin : 110 - margin, 30 + margin : 150 - margin]
    assert (inner - expected).abs().max() < 0.5 / 255


def test_a_part_that_lies_within_one_source_pixel_is_no_matter() -> None:
    source = smooth(6, 6)[..., :2, :2].contiguous()
    result = torch.rand(1, 3, 64, 64)
    part = BackProjection(source, (4096, 4096))(result, 4000, 4000, 1.0)
    assert part.shape == result.shape and bool(torch.isfinite(part).all())


def test_what_the_source_cannot_show_stays() -> None:
    """Detail finer than the source's pixels is not the source's business."""
    source = torch.full((1, 3, 16, 16), 0.5)
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2) * 0.2 + 0.4
    result = board.expand(1, 3, 64, 64).contiguous()
    assert (BackProjection(source, (64, 64))(result, 0, 0, 1.0) - result).abs().max() < 0.5 / 255
