"""HDR in, HDR out: how far the light of results is from that of sources, in files that are made here.

    python -m benchmarks.hdr [--json FILE]

Three tables, in ΔE_ITP (ITU-R BT.2124; 1 is about what one can just see), mean and 99th percentile of pixels:

kept: 20 JPEGs with gain maps and 6 files of PQ and HLG, enlarged ×4; the light of each result, reduced to the source's
size, beside that of its source.
signal: what the networks should see. Light is reduced four times, enlarged in each signal, and compared with the light
before: in PQ, in HLG, and in sRGB's curve over the same range. Bicubic for comparison.
gain map: how gain maps should be enlarged, likewise: by Lanczos, bilinearly, or by the network.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from benchmarks.ours import Ours
from server.images.metadata.cicp import CodePoints
from server.images.read.open import open_picture
from server.images.tone_map import WHITE_NITS
from server.job.job import Params
from tests import hdr
from tests.hdr import Light

Signal = NDArray[np.uint16]
Samples = NDArray[Any]
Row = tuple[str, float, float]

TIMES = 4
SEEDS = range(4)
NETWORKS = {"fidelity-x4": -2.0, "RealESRGAN_x4plus": 0.0}
SRGB_CURVE = 2.4
_HLG_NITS = 900
"""What HLG can show in any colour, about."""
_RANGE = 2**hdr.STOPS * WHITE_NITS


class Runs:
    """The server's own pipeline, from file to file."""

    def __init__(self) -> None:
        self._ours = Ours("cpu")

    def __call__(self, data: bytes, **params: Any) -> bytes:
        upscaler: Any = self._ours._upscaler
        with TemporaryDirectory() as folder:
            target = Path(folder) / "result"
            upscaler.run(upscaler.prepare(Params(**{"scale": TIMES, "hdr": "keep", **params}), data, target))
            return target.read_bytes()

    def samples(self, samples: Samples, **params: Any) -> Samples:
        grey = samples.ndim == 2
        space = "grey16" if grey else "rgb16"
        data = pyvips.Image.new_from_array(samples, interpretation=space).pngsave_buffer(compression=1)
        result: Samples = pyvips.Image.new_from_buffer(self(data, format="png", **params), "").numpy()
        return result


def kept(run: Runs, creativity: float) -> list[Row]:
    rows = []
    gain_maps: list[tuple[str, Callable[[Light], bytes]]] = [
        *((f"gain map 1:{each}, ISO", lambda light, each=each: hdr.by_libultrahdr(light, each)) for each in (1, 2, 4)),
        ("gain map 1:2, XMP", hdr.by_hand),
        ("gain map 1:2 in colour, XMP", lambda light: hdr.by_hand(light, coloured=True)),
    ]  # fmt: skip
    for name, make in gain_maps:
        parts = []
        for seed in SEEDS:
            data = make(hdr.light(seed))
            result = hdr.light_of_jpeg(run(data, format="jpeg", creativity=creativity))
            parts.append(hdr.far(hdr.reduced(result, TIMES), hdr.light_of_jpeg(data)))
        rows.append(_row(f"{name}: {len(parts)} files", parts))
    for codes in (hdr.PQ, hdr.HLG):
        parts = []
        for seed in range(3):
            data = hdr.avif(hdr.light(seed), codes)
            found = run(data, format="avif", creativity=creativity)
            light, source = (_light(each, codes) for each in (found, data))
            parts.append(hdr.far(hdr.reduced(light, TIMES), source, wide=True))
        rows.append(_row(f"{codes.kind}, AVIF to AVIF: {len(parts)} files", parts))
    return rows


def _light(data: bytes, codes: CodePoints) -> Light:
    return hdr.light_of_signal(open_picture(data, 10**9).numpy(), codes)


def signal(run: Runs) -> list[Row]:
    def curve_of(light: Light) -> Signal:
        return np.rint(np.clip(light / _RANGE, 0, 1) ** (1 / SRGB_CURVE) * 65535).astype(np.uint16)

    def light_of(samples: Samples) -> Light:
        result: Light = (samples[..., :3] / 65535) ** SRGB_CURVE * _RANGE
        return result

    signals: dict[str, tuple[Callable[[Light], Signal], Callable[[Samples], Light], bool]] = {
        "PQ": (lambda light: hdr.coded(light, hdr.PQ), lambda got: hdr.light_of_signal(got, hdr.PQ), True),
        "HLG": (lambda light: hdr.coded(light, hdr.HLG), lambda got: hdr.light_of_signal(got, hdr.HLG), True),
        "power 1/2.4": (curve_of, light_of, False),
    }
    ways: dict[str, Callable[[Samples], Samples]] = {
        name: lambda samples, creativity=creativity: run.samples(samples, creativity=creativity)  # type: ignore[misc]
        for name, creativity in NETWORKS.items()
    }
    ways["bicubic"] = _bicubic
    rows = []
    for way, enlarge in ways.items():
        for name, (to, back, wide) in signals.items():
            parts = []
            for seed in SEEDS:
                truth = np.minimum(hdr.light(seed, 256, 384), _HLG_NITS)
                result = back(enlarge(to(hdr.reduced(truth, TIMES))))
                parts.append(hdr.far(result, _in_bt2020(truth) if wide else truth, wide=wide))
            rows.append(_row(f"{way}, in {name}", parts))
    return rows


def _in_bt2020(light: Light) -> Light:
    return hdr.light_of_signal(hdr.coded(light, hdr.PQ), hdr.PQ)


def _bicubic(samples: Samples) -> Samples:
    image = pyvips.Image.new_from_array(samples, interpretation="rgb16")
    result: Samples = image.resize(TIMES, kernel="cubic").numpy()
    return result


def gain_map(run: Runs) -> list[Row]:
    """Of gain maps alone, half the size of their pictures: the base is that of the truth, so that only they differ."""
    ways: dict[str, Callable[[Samples], Samples]] = {
        "Lanczos": lambda samples: pyvips.Image.new_from_array(samples).resize(TIMES, kernel="lanczos3").numpy(),
        "bilinear": lambda samples: pyvips.Image.new_from_array(samples).resize(TIMES, kernel="linear").numpy(),
        "fidelity-x4": lambda samples: run.samples(samples, creativity=-2.0),
    }
    rows = []
    for way, enlarge in ways.items():
        parts = []
        for seed in SEEDS:
            truth = hdr.light(seed, 256, 384)
            base, gain = _split(truth)
            small = hdr.reduced(gain[..., None], 2 * TIMES)[..., 0]
            codes = np.rint(small / hdr.STOPS * 65535).astype(np.uint16)
            large = enlarge(codes).reshape(128, 192) / 65535 * hdr.STOPS
            full = pyvips.Image.new_from_array(large.astype(np.float32)).resize(2, kernel="linear").numpy()
            parts.append(hdr.far(base * 2 ** full.reshape(256, 384, 1), base * 2 ** gain[..., None]))
        rows.append(_row(way, parts))
    return rows


def _split(light: Light) -> tuple[Light, Light]:
    """The standard picture, and the gain in stops."""
    brightest = light.max(axis=-1, keepdims=True) / WHITE_NITS
    standard = brightest * (1 + brightest / 4**hdr.STOPS) / (1 + brightest)
    base: Light = light * standard / brightest
    return base, np.log2(brightest / standard)[..., 0]


def _row(name: str, parts: list[Light]) -> Row:
    every = np.concatenate([each.ravel() for each in parts])
    return name, round(float(every.mean()), 2), round(float(np.percentile(every, 99)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    run = Runs()
    tables = {f"kept, {name}": kept(run, creativity) for name, creativity in NETWORKS.items()}
    tables |= {"signal": signal(run), "gain map": gain_map(run)}
    for title, rows in tables.items():
        print(f"\n{title:<40}{'mean':>8}{'99 %':>8}")
        for name, mean, most in rows:
            print(f"{name:<40}{mean:>8.2f}{most:>8.2f}")
    if given.json:
        given.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
