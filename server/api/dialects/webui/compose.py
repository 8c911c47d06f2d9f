"""What is done to results of jobs after their networks: resizing without one, blending two, cutting out the centre."""

from typing import Any

import pyvips

from server.api.dialects.webui.translate import Kernel
from server.job.tiling import Size


def compose(pictures: list[tuple[bytes, Kernel | None]], target: Size, share: float, cut_to: Size | None) -> bytes:
    """A PNG of one or two PNGs, each with the kernel that is to bring it to the target's size; None: it stays as it is.
    `share`: of the second, 0 … 1. `cut_to`: at most the target's size."""
    layers = [_resized(pyvips.Image.new_from_buffer(data, ""), target, kernel) for data, kernel in pictures]
    image = layers[0] if len(layers) == 1 else _blended(layers[0], layers[1], share)
    if cut_to is not None:
        w, h = min(cut_to[0], image.width), min(cut_to[1], image.height)
        image = image.crop((image.width - w) // 2, (image.height - h) // 2, w, h)
    encoded: bytes = image.pngsave_buffer(compression=1)
    return encoded


def _resized(image: Any, target: Size, kernel: Kernel | None) -> Any:
    w, h = image.width, image.height
    if kernel is None or (w, h) == target:
        return image
    scales = {"vscale": target[1] / h, "kernel": kernel}
    if not image.hasalpha() or kernel == "nearest":
        return image.resize(target[0] / w, **scales)
    return image.premultiply().resize(target[0] / w, **scales).unpremultiply().cast(image.format)


def _blended(first: Any, second: Any, share: float) -> Any:
    """Both have the same source, so they have the same bands."""
    return (first * (1 - share) + second * share).rint().cast(first.format).copy(interpretation=first.interpretation)
