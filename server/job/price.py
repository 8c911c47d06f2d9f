"""A job's cost, for operators who charge their callers. Prices are settings, and 0 by default."""

from server.config import Config
from server.job.tiling import Size

CURRENCY = "USD"
"""The currency of the vendors' fields; there is no conversion."""


def cost_of(size: Size | None, config: Config, frames: int = 1) -> float:
    """Cost of a result of that (width, height), all frames; None if the size is unknown: the price per job alone."""
    megapixels = size[0] * size[1] * frames / 1e6 if size else 0.0
    return round(config.price_per_job + config.price_per_megapixel * megapixels, 6)
