"""What creativity means for the refiner that comes with the server."""

from dataclasses import dataclass

from server.job.creativity import interpolated, recipe


@dataclass(frozen=True)
class Settings:
    strength: float
    """Where the diffusion starts: 0 is the upscaled picture itself, so that none is run, 1 is noise alone."""
    steps: int
    """Denoising steps from there."""


_STRENGTHS = {-2.0: 0.0, -1.0: 0.0, 0.0: 0.0, 1.0: 0.65, 2.0: 0.7}

ANCHORS = {creativity: Settings(strength, recipe(creativity).steps) for creativity, strength in _STRENGTHS.items()}


def settings(creativity: float) -> Settings:
    """`creativity` in -2 … 2."""
    return interpolated(ANCHORS, creativity)
