"""Odd and hostile picture files: which are read right, which are refused, and in which words.

    python -m tests.stress.awkward FOLDER [-o tests/stress/awkward.json]

Every file goes through decode and save (PNG, metadata kept), in a process that may crash or hang without harm. The
result is held against what another library reads: Pillow, with pi-heif for HEIC and littleCMS for profiles. Right means
the same size, and ΔE (CIEDE2000) of at most 2 in the mean of the picture's 8 × 8 fields, shown on white.
"""

import argparse
import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pi_heif
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from skimage.color import deltaE_ciede2000, rgb2lab, xyz2rgb

from server.errors import UpscaleError
from server.images.metadata import colour
from server.images.metadata.metadata import Metadata, attach_metadata
from server.images.read.open import Samples
from server.images.write.save import save
from server.job.job import Params
from server.pipeline import decode

MAX_DIFFERENCE = 2.0
MAX_SECONDS = 10.0
MAX_PIXELS = 100_000_000
"""The server's default limit."""
_FIELDS = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    outcome: str
    """right; refused; unconfirmed (read, but the reference can't); or wrong, crashed, hung."""
    why: str = ""
    difference: float | None = None
    """ΔE to the reference."""


@dataclass
class Run:
    """What decode uses of a pipeline's context, which needs no network."""

    data: bytes
    max_source_pixels: int = MAX_PIXELS
    params: Params = field(default_factory=lambda: Params(scale=1))
    samples: Samples = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    metadata: Metadata = field(default_factory=Metadata)
    hdr: str | None = None
    gain_map: None = None
    gain: None = None
    animation: None = None
    notes: list[str] = field(default_factory=list)


def judge(data: bytes) -> Verdict:
    """One file, in this process."""
    run = Run(data)
    try:
        decode.run(run)  # type: ignore[arg-type]
    except UpscaleError as error:
        return Verdict("refused", error.message)
    if run.hdr not in (None, "gain map"):
        return Verdict("unconfirmed", "HDR, which the reference does not tone-map")
    samples = run.samples
    with TemporaryDirectory() as folder:
        target = Path(folder) / "result.png"
        grey, deep = samples.shape[2] < 3, samples.dtype == np.uint16
        space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
        image = pyvips.Image.new_from_array(samples, interpretation=space)
        save(attach_metadata(image, run.metadata), target, Params(scale=1))
        ours = _ours(pyvips.Image.new_from_file(str(target), fail_on="warning"))
    try:
        theirs = _theirs(data)
    except Exception as error:  # whatever it is: there is nothing to compare with
        return Verdict("unconfirmed", f"{type(error).__name__}")
    if ours.shape != theirs.shape:
        return Verdict("wrong", f"{ours.shape} instead of {theirs.shape}")
    difference = round(float(deltaE_ciede2000(_fields(ours), _fields(theirs)).mean()), 3)
    if difference > MAX_DIFFERENCE:
        return Verdict("wrong", "other colours", difference)
    return Verdict("right", "", difference)


def _fields(rgb: Floats) -> Floats:
    """Mean colours of a coarse grid, in CIELAB."""
    rows = np.array_split(rgb, min(_FIELDS, rgb.shape[0]), axis=0)
    means = [
        [part.mean(axis=(0, 1)) for part in np.array_split(row, min(_FIELDS, rgb.shape[1]), axis=1)] for row in rows
    ]
    result: Floats = rgb2lab(np.array(means))
    return result


def _on_white(rgb: Floats, alpha: Floats | None) -> Floats:
    rgb = np.broadcast_to(rgb, (*rgb.shape[:2], 3))
    return rgb if alpha is None else rgb * alpha + 1 - alpha


def _ours(image: pyvips.Image) -> Floats:
    image = colour.to_srgb(image)
    samples = image.numpy().reshape(image.height, image.width, image.bands) / (
        65535 if image.format == "ushort" else 255
    )
    alpha = samples[..., -1:] if image.hasalpha() else None
    return _on_white(samples[..., : image.bands - image.hasalpha()], alpha)


# --- the reference ---------------------------------------------------------------------------------------------------


def _theirs(data: bytes) -> Floats:
    pi_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(data))
    image.load()
    info = dict(image.info)
    if b"colrnclx\0\x09" in data:  # BT.2020
        info["chromaticity"] = (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)
    image = ImageOps.exif_transpose(image)
    alpha = _alpha(image)
    if image.mode.startswith("I"):
        return _as_described(np.asarray(image)[..., None] / 65535, alpha, info)
    profile = info.get("icc_profile")
    if image.mode == "CMYK" and not profile:
        profile = bytes(pyvips.Operation.call("profile_load", "cmyk"))
    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGB")
    elif image.mode in ("LA", "La"):
        image = image.getchannel("L")
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        image = Image.merge("RGB", image.split()[:3])
    if profile and _is_for(profile, image.mode):
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
        converted = ImageCms.profileToProfile(image, source, target, renderingIntent=relative, outputMode="RGB")
        assert converted is not None
        return _on_white(np.asarray(converted) / 255, alpha)
    return _as_described(np.asarray(image.convert("RGB")) / 255, alpha, info)


def _alpha(image: Image.Image) -> Floats | None:
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16") and clear is not None:  # which Pillow does not apply
        return (np.asarray(image) != clear)[..., None].astype(np.float64)
    if not image.has_transparency_data:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))[..., None] / 255


def _is_for(profile: bytes, mode: str) -> bool:
    return profile[36:40] == b"acsp" and profile[16:20] == {"L": b"GRAY", "CMYK": b"CMYK"}.get(mode, b"RGB ")


def _as_described(encoded: Floats, alpha: Floats | None, info: dict[Any, Any]) -> Floats:
    """By PNG's gAMA and cHRM or HEIF's nclx, which Pillow only reports, or not even that."""
    points, gamma = info.get("chromaticity"), info.get("gamma")
    if "srgb" in info or (gamma is None and points is None) or (abs((gamma or 0) - 0.45455) < 0.02 and points is None):
        return _on_white(encoded, alpha)
    encoded = np.broadcast_to(encoded, (*encoded.shape[:2], 3))
    curve = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    light = curve if gamma is None or abs(gamma - 0.45455) < 0.02 else encoded ** (1 / gamma)
    numbers = points or (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    white, *primaries = [
        np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(numbers[::2], numbers[1::2], strict=True)
    ]
    matrix = np.array(primaries).T
    xyz = light @ (matrix * np.linalg.solve(matrix, white)).T
    adapted = xyz / white * np.array([0.95047, 1, 1.08883])  # the whites differ by rounding only, if at all
    return _on_white(xyz2rgb(adapted), alpha)


# --- the table -------------------------------------------------------------------------------------------------------


def judge_all(paths: list[Path]) -> Iterator[tuple[Path, Verdict, float]]:
    """Each with the seconds it took, in another process."""
    pool = _pool()
    for path in paths:
        started = time.perf_counter()
        try:
            verdict = pool.submit(judge, path.read_bytes()).result(timeout=3 * MAX_SECONDS)
        except (BrokenProcessPool, TimeoutError) as error:
            verdict = Verdict("crashed" if isinstance(error, BrokenProcessPool) else "hung")
            for process in list(pool._processes.values()):
                process.kill()
            pool = _pool()
        yield path, verdict, time.perf_counter() - started
    pool.shutdown()


def _pool() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    pool.submit(int).result()  # that starting it does not count
    return pool


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge every picture file of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    paths = sorted(
        path for path in args.folder.rglob("*") if path.is_file() and path.suffix not in (".md", ".csv", ".txt")
    )
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    files: dict[str, dict[str, object]] = {}
    for path, verdict, seconds in judge_all(paths):
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "refused":
            reasons["".join("N" if letter.isdigit() else letter for letter in verdict.why)] += 1
        files[str(path.relative_to(args.folder))] = {**asdict(verdict), "seconds": round(seconds, 2)}
        if verdict.outcome not in ("right", "refused"):
            print(path.relative_to(args.folder), verdict)
    print(dict(outcomes))
    for reason, count in reasons.most_common():
        print(f"{count:4}  {reason}")
    if args.output:
        table = {"outcomes": dict(outcomes), "refused": dict(reasons.most_common()), "files": files}
        args.output.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
