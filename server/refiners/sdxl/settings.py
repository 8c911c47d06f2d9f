"""What creativity means for SDXL."""

from dataclasses import dataclass

from server.job.creativity import interpolated


@dataclass(frozen=True)
class Settings:
    strength: float
    """Where the diffusion starts when SDXL runs it: its noise is another."""
    steps: int
    """Denoising steps of SDXL."""
    control: float
    """ControlNet's scale: how closely SDXL holds to the upscaled picture."""
    guidance: float
    """Classifier-free guidance."""


ANCHORS = {
    -2.0: Settings(0.0, 0, 0.75, 5.0),
    -1.0: Settings(0.0, 0, 0.75, 5.0),
    0.0: Settings(0.0, 0, 0.75, 5.0),
    1.0: Settings(0.45, 10, 0.6, 6.0),
    2.0: Settings(0.65, 12, 0.45, 7.0),
}


def settings(creativity: float) -> Settings:
    """`creativity` in -2 … 2."""
    return interpolated(ANCHORS, creativity)
