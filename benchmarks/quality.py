"""How close the networks come to the truth, in figures that the literature uses.

    python -m benchmarks.quality [--pictures DIR] [--checkpoint PATH …] [--official DIR] [--json FILE]

Clean: each picture of Set5, Set14 and Kodak24 is reduced to a quarter as MATLAB's imresize does (antialiased bicubic,
8 bits), enlarged again, and compared with itself: PSNR and SSIM on the Y of BT.601, four pixels of border left out.
That is the protocol of nearly every super-resolution paper, so the rows compare with theirs: bicubic is 28.42 dB on
Set5 and 26.1 on Set14 (26.0 where a paper leaves its grey picture outside the Y conversion). It asks one thing only,
fidelity on undamaged pictures; networks trained with a GAN lose here by design.

Degraded: centred crops of Kodak24 and Set14 after the training's own second-order damage, with seeds of their own that
never change: RGB PSNR to the truth, HaarPSI (piq's; nearer to how people judge likeness than PSNR), and NIQE of the
result (basicsr's; lower looks more natural, and knows no truth). Real pictures arrive damaged; a network that does well
on the clean tables can fail here.

Colour, over the clean sets: PSNR of Cb and Cr, which PSNR-Y says nothing of, and the mesh: how much larger steps are at
the borders of source pixels than between them (means of the absolute differences of neighbours; the mean of both
directions and of the pictures). Nearest-neighbour has no steps elsewhere; 1 is none to be seen.

Plain: `ramps`: how far triangle waves of three periods, along either side, move in their mean; `white`: the darkest
level of a white picture, borders included; `grey`: the largest difference between the channels of grey pictures that
are stored as RGB (Kodak24 reduced by four).

Flat: what becomes of pictures with nothing in them: black, white, greys, colours and a grey ramp. `shift`: the largest
difference of mean brightness, `texture`: the largest standard deviation around the right value, of 255.

Networks run in fp32 on whole pictures, so the figures are the weights' own: no tiles, no half precision. Rows are the
two classic resamplers, every ×4 checkpoint of the manifest that is present, and those given. The tables are Markdown;
the last line of stdout is the same as JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import piq
import torch
from numpy.typing import NDArray
from PIL import Image

from server.models import load_model
from server.weights.catalog import Catalog, sha256_of
from training.degrade import second_order
from training.pair import SCALE, Pixels, to_tensor

from basicsr.metrics.niqe import calculate_niqe  # isort: skip  (basicsr only after server.shim, which models import)
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim  # isort: skip
from basicsr.utils.matlab_functions import imresize  # isort: skip

SETS = ("Set5", "Set14", "Kodak24")
DEGRADED_SETS = ("Kodak24", "Set14")
DEGRADED_SEED = 2028
CROP = 480
"""Longest side of a degraded crop: five of NIQE's blocks of 96."""
BORDER = 4
FLAT = 96
"""Side of a flat source."""
PERIODS = (16, 32, 64)
"""Of the triangle waves, in source pixels."""

Upscale = Callable[[Pixels], Pixels]
"""H×W×3 uint8 RGB → four times the size."""
Figures = dict[str, float]


def bicubic(pixels: Pixels) -> Pixels:
    """MATLAB's imresize, which the published figures stand on; Pillow's differs in the third digit."""
    return _matlab_resize(pixels, SCALE)


def lanczos(pixels: Pixels) -> Pixels:
    h, w = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((w * SCALE, h * SCALE), Image.Resampling.LANCZOS))


def network(path: Path, device: torch.device) -> Upscale:
    """The checkpoint as a function: safetensors, a release's .pth, or a training run's .pt (its average)."""
    model = load_model(path, name=path.name, sha256=None, device=device)
    if model.facts.scale != SCALE:
        raise SystemExit(f"{path} is a network for ×{model.facts.scale}; these figures are for ×{SCALE}")

    def upscale(pixels: Pixels) -> Pixels:
        output = model(to_tensor(pixels[None]).to(device))[0]
        return np.asarray(output.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu())

    return upscale


def measure_clean(pictures: Iterable[Pixels], upscale: Upscale) -> Figures:
    """Mean PSNR-Y in dB and SSIM-Y over the pictures."""
    psnr, ssim = [], []
    for picture in pictures:
        hr = _mod_crop(picture)
        output = upscale(_matlab_resize(hr, 1 / SCALE))
        psnr.append(calculate_psnr(_y(output), _y(hr), BORDER))
        ssim.append(calculate_ssim(_y(output), _y(hr), BORDER))
    return {"psnr_y": float(np.mean(psnr)), "ssim_y": float(np.mean(ssim))}


def measure_colour(pictures: Iterable[Pixels], upscale: Upscale) -> Figures:
    """Mean PSNR of Cb and Cr in dB, and the mesh of Y, Cb and Cr; of grey pictures, nothing."""
    figures: dict[str, list[float]] = {}
    for picture in pictures:
        hr = _mod_crop(picture)
        if np.ptp(hr, axis=2).max() == 0:
            continue
        output, truth = (_ycbcr(each) for each in (upscale(_matlab_resize(hr, 1 / SCALE)), hr))
        for channel, name in enumerate(("y", "cb", "cr")):
            error = (output - truth)[BORDER:-BORDER, BORDER:-BORDER, channel]
            if name != "y":
                psnr = 10 * np.log10(255**2 / max(1e-3, np.square(error).mean()))
                figures.setdefault(f"psnr_{name}", []).append(float(psnr))
            figures.setdefault(f"mesh_{name}", []).append(mesh(output[..., channel]))
    return {name: float(np.mean(values)) for name, values in figures.items()}


def mesh(channel: NDArray[np.float64]) -> float:
    """Mean step at the borders of source pixels, by the mean of the other steps."""
    at_borders, elsewhere = 0.0, 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(channel, axis=axis)).mean(axis=1 - axis)
        border = np.arange(len(steps)) % SCALE == SCALE - 1
        at_borders += float(steps[border].mean())
        elsewhere += float(steps[~border].mean())
    return at_borders / max(elsewhere, 1e-9)


def measure_plain(pictures: Iterable[Pixels], upscale: Upscale) -> Figures:
    """What must not change: the mean of ramps, white, and grey. In levels of 255."""
    ramps = []
    for period in PERIODS:
        wave = np.abs(np.arange(4 * max(PERIODS)) % period * 2 / period - 1)[: 2 * max(PERIODS)]
        ramp = np.repeat(np.rint(wave * 255).astype(np.uint8)[:, None, None], FLAT, axis=1).repeat(3, axis=2)
        for source in (ramp, np.ascontiguousarray(ramp.transpose(1, 0, 2))):
            ramps.append(abs(float(upscale(source).mean() - source.mean())))
    white = min(int(upscale(np.full((FLAT, FLAT + width, 3), 255, np.uint8)).min()) for width in (0, 7))
    grey = 0
    for picture in pictures:
        luma = np.asarray(Image.fromarray(_matlab_resize(_mod_crop(picture), 1 / SCALE)).convert("L"))
        grey = max(grey, int(np.ptp(upscale(np.repeat(luma[..., None], 3, axis=2)).astype(int), axis=2).max()))
    return {"ramps": max(ramps), "white": float(white), "grey": float(grey)}


def measure_degraded(pairs: Iterable[tuple[Pixels, Pixels]], upscale: Upscale) -> Figures:
    """Mean RGB PSNR in dB, HaarPSI and NIQE over pairs of (lr, hr)."""
    psnr, haarpsi, niqe = [], [], []
    for lr, hr in pairs:
        output = upscale(lr)
        psnr.append(calculate_psnr(output, hr, BORDER))
        haarpsi.append(piq.haarpsi(to_tensor(output[None]), to_tensor(hr[None])).item())
        niqe.append(calculate_niqe(output[..., ::-1], 0))  # it wants BGR
    return {"psnr_rgb": float(np.mean(psnr)), "haarpsi": float(np.mean(haarpsi)), "niqe": float(np.mean(niqe))}


def measure_flat(upscale: Upscale) -> Figures:
    """The largest shift of the mean and the largest deviation from the right values, in levels of 255."""
    colours = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (20, 20, 20), (235, 64, 52), (20, 90, 200), (250, 240, 210)]
    sources = [np.broadcast_to(np.array(colour, np.uint8), (FLAT, FLAT, 3)) for colour in colours]
    shift, texture = [], []
    for source in sources:
        error = upscale(np.ascontiguousarray(source)).astype(float) - source[0, 0]
        shift.append(np.abs(error.mean(axis=(0, 1))).max())
        texture.append(error.std(axis=(0, 1)).max())
    ramp = np.repeat(np.linspace(0, 255, FLAT).round().astype(np.uint8)[None, :, None], FLAT, axis=0).repeat(3, axis=2)
    error = upscale(ramp).astype(float) - lanczos(ramp)
    inner = error[:, BORDER * SCALE : -BORDER * SCALE]
    shift.append(np.abs(inner.mean(axis=(0, 1))).max())
    texture.append(inner.std(axis=0).max())  # down the columns, which are flat
    return {"shift": float(max(shift)), "texture": float(max(texture))}


def degraded_pairs(pictures: Iterable[Pixels]) -> list[tuple[Pixels, Pixels]]:
    """(lr, hr) of each picture's centre; picture number i always gets the same damage."""
    pairs = []
    for i, picture in enumerate(pictures):
        hr = _centre(picture)
        pairs.append((second_order(hr, np.random.default_rng((DEGRADED_SEED, i))), hr))
    return pairs


def load_set(folder: Path) -> list[Pixels]:
    """All PNG files by name, as RGB; a grey one gets three equal channels."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise SystemExit(f"no PNG pictures in {folder}")
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def report(sets: dict[str, list[Pixels]], rows: dict[str, Upscale]) -> dict[str, Any]:
    """Everything measured: {"clean": {set: {row: figures}}, "degraded": {row: figures}}."""
    pairs = degraded_pairs(picture for name in DEGRADED_SETS for picture in sets.get(name, ()))
    return {
        "clean": {name: {row: measure_clean(sets[name], rows[row]) for row in rows} for name in sets},
        "degraded": {row: measure_degraded(pairs, rows[row]) for row in rows} if pairs else {},
        "colour": {row: measure_colour((each for name in sets for each in sets[name]), rows[row]) for row in rows},
        "plain": {row: measure_plain(sets.get("Kodak24", ()), rows[row]) for row in rows},
        "flat": {row: measure_flat(rows[row]) for row in rows},
    }


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown tables."""
    clean, degraded, flat = results["clean"], results["degraded"], results["flat"]
    colour, plain = results["colour"], results["plain"]
    lines = ["| clean ×4: PSNR-Y dB / SSIM-Y | " + " | ".join(clean) + " |", "|---" * (1 + len(clean)) + "|"]
    for row in next(iter(clean.values())):
        cells = (f"{figures[row]['psnr_y']:.2f} / {figures[row]['ssim_y']:.4f}" for figures in clean.values())
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    if degraded:
        lines += ["", "| degraded ×4 | PSNR RGB dB | HaarPSI | NIQE |", "|---|---|---|---|"]
        for row, each in degraded.items():
            lines.append(f"| {row} | {each['psnr_rgb']:.2f} | {each['haarpsi']:.4f} | {each['niqe']:.2f} |")
    lines += ["", "| colour | PSNR Cb dB | PSNR Cr dB | mesh Y | mesh Cb | mesh Cr |", "|---" * 6 + "|"]
    for row, each in colour.items():
        cells = (
            f"{each.get(name, float('nan')):.2f}" for name in ("psnr_cb", "psnr_cr", "mesh_y", "mesh_cb", "mesh_cr")
        )
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += ["", "| plain | ramps | white | grey |", "|---|---|---|---|"]
    lines += [
        f"| {row} | {each['ramps']:.2f} | {each['white']:.0f} | {each['grey']:.0f} |" for row, each in plain.items()
    ]
    lines += ["", "| flat | shift | texture |", "|---|---|---|"]
    lines += [f"| {row} | {each['shift']:.2f} | {each['texture']:.2f} |" for row, each in flat.items()]
    return "\n".join(lines)


def _matlab_resize(pixels: Pixels, scale: float) -> Pixels:
    resized = imresize(pixels.astype(np.float32) / 255, scale)
    return np.asarray(np.clip(np.rint(resized * 255), 0, 255), np.uint8)


def _mod_crop(pixels: Pixels) -> Pixels:
    h, w = pixels.shape[:2]
    return pixels[: h - h % SCALE, : w - w % SCALE]


def _centre(pixels: Pixels) -> Pixels:
    h, w = (min(CROP, side - side % SCALE) for side in pixels.shape[:2])
    y, x = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    return np.ascontiguousarray(pixels[y : y + h, x : x + w])


def _ycbcr(pixels: Pixels) -> NDArray[np.float64]:
    """BT.601 as JPEG has it, without the offset of the chroma."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.asarray(pixels @ matrix.T, np.float64)


def _y(pixels: Pixels) -> Pixels:
    """As MATLAB's rgb2ycbcr of 8 bits: 16 to 235, rounded."""
    return np.asarray(np.rint(16 + pixels @ np.array([65.481, 128.553, 24.966]) / 255), np.uint8)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("../shared/images"), help="has test/Set5 and so on")
    parser.add_argument("--official", type=Path, default=Path("../shared/weights/official"), help="downloaded weights")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="a further row; may be repeated")
    parser.add_argument("--only", nargs="*", help="these rows of the manifest alone, beside the resamplers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)

    catalog = Catalog(args.official)
    present = [catalog.get(name) for name in catalog.names()]
    paths = {each.name: each.path for each in present if each.shape.scale == SCALE}
    if args.only is not None:
        paths = {name: path for name, path in paths.items() if name in args.only}
    paths |= {f"{path.parent.name}/{path.name}": path for path in args.checkpoint}
    device = torch.device(args.device)
    rows = {"bicubic": bicubic, "Lanczos": lanczos} | {name: network(path, device) for name, path in paths.items()}
    root = args.pictures / "test" if (args.pictures / "test").is_dir() else args.pictures
    results = report({name: load_set(root / name) for name in SETS}, rows)
    results["weights"] = {name: sha256_of(path) for name, path in paths.items()}
    results["torch"] = torch.__version__
    print(tables(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
