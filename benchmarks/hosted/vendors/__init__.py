"""The services that can be compared."""

from benchmarks.hosted.vendors import native, novita, replicate, runware, vibedream, wavespeed
from benchmarks.hosted.vendors.base import Vendor

VENDORS: tuple[Vendor, ...] = (
    wavespeed.IMAGE_UPSCALER,
    wavespeed.REAL_ESRGAN,
    vibedream.IMAGE_UPSCALER,
    novita.IMAGE_UPSCALER,
    runware.IMAGE_UPSCALE,
    replicate.REAL_ESRGAN,
    native.JOBS,
)

BY_NAME = {vendor.name: vendor for vendor in VENDORS}
