"""Which other processes compute tiles of a large picture. A new kind of pool is one file here and its line in
`open_pool`."""

from typing import TYPE_CHECKING

from server.config import Config
from server.worker.pools.base import Pool
from server.worker.pools.local import LocalPool
from server.worker.pools.ray import RayPool

if TYPE_CHECKING:
    from server.worker.upscaler import Upscaler


def open_pool(config: Config, upscaler: "Upscaler") -> Pool:
    """The pool that the settings name: the workers of this machine, and with an address of Ray its engines too."""
    if config.ray_address is not None:
        return RayPool(config, upscaler, config.ray_address)
    return LocalPool(config, upscaler)
