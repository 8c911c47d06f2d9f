"""What a job costs its caller, for operators who charge back. Prices are settings, and zero unless they are set."""

from server.config import Config
from server.job.tiling import Size

CURRENCY = "USD"
"""The currency that the vendors' fields are in; nothing is converted."""


def cost_of(size: Size | None, config: Config, frames: int = 1) -> float:
    """Cost of a result of that (width, height), all frames; None: before it is known, the price per job alone."""
    megapixels = size[0] * size[1] * frames / 1e6 if size else 0.0
    return round(config.price_per_job + config.price_per_megapixel * megapixels, 6)
