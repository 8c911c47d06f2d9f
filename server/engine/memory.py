"""How much of a GPU's memory a tile may take: by what was measured after warm-up.

The same job must give the same bytes on another day, and the size of tiles changes bytes. So it goes in steps, which a
few MB more or less do not change.
"""

import torch

from server.models.base import Model

GIB = 1 << 30
STEPS = (GIB // 4, GIB // 2, GIB, 2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB)
"""Memory of a tile. In 16 GiB a picture of 1920 × 1080 pixels is one tile of RealESRGAN_x4plus."""
_CPU_BYTES = GIB // 4
_SHARE = 3
"""Of the half that networks leave: a tile, what is kept of others (graphs, results, cached blocks), and room."""
WARMED = (64, 128, 384)
"""Sides of the pictures that run at the start: the first run of a shape takes longer. The last one is measured; it is
alone in its batch."""


def tile_bytes(total: int, free: int) -> int:
    """`total`: bytes of the device. `free`: what is not taken by other processes and by networks that stay loaded."""
    room = min(free, total // 2) // _SHARE
    return max((step for step in STEPS if step <= room), default=STEPS[0])


class Memory:
    """What was measured in this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.tile_bytes = _CPU_BYTES
        self._pixel_bytes: dict[str, int] = {}
        self.look()

    def look(self) -> None:
        """Decide again what a tile may take."""
        if self._device.type != "cuda":
            return
        free, total = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        self.tile_bytes = tile_bytes(total, free + cached)

    def note(self, model: Model, peak: int, pixels: int) -> None:
        """A tile of so many source pixels took `peak` bytes."""
        if peak > 0:
            self._pixel_bytes[model.name] = -(-peak // pixels)

    def pixel_bytes(self, model: Model) -> int:
        """Of a source pixel, while it is computed: measured, or estimated for a network that was not warmed."""
        estimate = model.facts.pixel_bytes * model.dtype.itemsize // 4
        return max(1, self._pixel_bytes.get(model.name, estimate))

    def tile_pixels(self, model: Model) -> int:
        return self.tile_bytes // self.pixel_bytes(model)
