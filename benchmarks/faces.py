"""Face restoration, compared with the original packages: `python -m benchmarks.faces [--pictures DIR --detector FILE]
[--json FILE]`.

* `paste`: ten faces into a 4096 × 2732 picture, by the server in bands and by FaceRestoreHelper; the median of several
  alternating rounds.
* `enhance`: one picture from pixels to pixels, by the server and by `GFPGANer.enhance`, with the same random weights of
  full size: results without meaning at the true cost. Needs a portrait (astronaut_collins.png in `--pictures`) and
  RetinaFace.
* `guard`: which faces the likeness guard accepts: degraded portraits compared with the originals, and with other
  people's. Needs the same.

`--detector`: a RetinaFace mobile0.25 checkpoint.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from server.engine.device import describe, pick_device
from server.engine.engine import Engine
from server.faces import Detector, FaceRestorer, Parser, Paste, RestoredFace
from server.faces.align import align, unfit
from server.faces.base import SIDE, TEMPLATE, Face
from server.faces.likeness import LikenessCheck
from server.faces.restorers import load as load_restorer
from server.images.read.open import Samples
from server.job.job import Faces
from server.models import basicsr_shim, load_state

_ROUNDS = 3
_SOURCE, _SCALE = (1024, 683), 4
_FACTORS = (2, 4, 8, 12)
_GFPGAN = {"num_style_feat": 512, "channel_multiplier": 2, "num_mlp": 8, "narrow": 1, "sft_half": True}


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def paste_figures() -> dict[str, float]:
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    rng = np.random.default_rng(0)
    width, height = _SOURCE
    source = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 3)
    landmarks = [TEMPLATE * 0.3 + (20 + 195 * column, 100 + 250 * row) for row in range(2) for column in range(5)]
    faces = [cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8), (0, 0), 5) for _ in landmarks]
    canvas = np.asarray(cv2.resize(source, (width * _SCALE, height * _SCALE)))

    def theirs() -> None:
        helper: Any = FaceRestoreHelper.__new__(
            FaceRestoreHelper
        )  # its __init__ loads networks, which paste does not need
        helper.clean_all()
        helper.upscale_factor, helper.face_size, helper.face_template = _SCALE, (SIDE, SIDE), TEMPLATE
        helper.use_parse, helper.pad_blur, helper.input_img = False, False, source
        helper.all_landmarks_5, helper.restored_faces = landmarks, faces
        helper.align_warp_face()
        helper.get_inverse_affine()
        helper.paste_faces_to_input_image(upsample_img=canvas)

    def ours() -> None:
        restored = [
            RestoredFace(align(source, Face((0, 0, 1, 1), 1, points))[1], face / np.float32(255), None)
            for points, face in zip(landmarks, faces, strict=True)
        ]
        paste = Paste(restored, _SOURCE, (canvas.shape[1], canvas.shape[0]), 1.0)
        result = canvas.copy()
        for y in range(0, len(result), 512):
            paste.into(result[y : y + 512], y)

    rounds = [(timed(ours), timed(theirs)) for _ in range(_ROUNDS)]
    one, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"ours_s": round(one, 3), "facexlib_s": round(other, 3), "ratio": round(one / other, 3)}


def enhance_figures(samples: Samples, detector: Path, device: torch.device) -> dict[str, float]:
    torch.manual_seed(0)
    net = basicsr_shim.gfpgan_v1_clean()(
        out_size=SIDE, decoder_load_path=None, fix_decoder=False, input_is_latent=True, different_w=True, **_GFPGAN
    )
    parser = basicsr_shim.parse_net()(in_size=SIDE, out_size=SIDE, parsing_ch=19)
    with gfpganer({"params_ema": net.state_dict()}, parser.state_dict(), device) as theirs:
        theirs.face_helper.face_det.load_state_dict(load_state(detector))
        engine = Engine(device)
        restore = FaceRestorer(
            Detector(load_state(detector), "detector", engine),
            load_restorer(net.state_dict(), "seeded", engine, torch.float32),
            Parser(parser.state_dict(), "seeded", engine),
            checks=(),  # it would refuse all faces, and the parser would not run
        )
        height, width = samples.shape[:2]
        size = width * 2, height * 2
        background = np.ascontiguousarray(samples[..., ::-1])

        def ours() -> None:
            result = np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_LANCZOS4))
            outcomes = restore(samples, Faces())
            Paste([each.restored for each in outcomes if each.restored], (width, height), size, 1.0).into(result, 0)

        rounds = [(timed(ours), timed(lambda: theirs.enhance(background))) for _ in range(_ROUNDS)]
    one, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"ours_s": round(one, 3), "gfpganer_s": round(other, 3), "ratio": round(one / other, 3)}


@contextmanager
def gfpganer(restorer: dict[str, Any], parser: dict[str, Any], device: torch.device) -> Iterator[Any]:
    """The package's GFPGANer, with a small random detector. It loads from the working folder, or downloads."""
    from facexlib.detection.retinaface import RetinaFace
    from gfpgan import GFPGANer

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "gfpgan", "weights")
        weights.mkdir(parents=True)
        torch.save(restorer, Path(folder, "GFPGAN.pth"))
        torch.save(parser, weights / "parsing_parsenet.pth")
        torch.save(RetinaFace("resnet50", device="cpu").state_dict(), weights / "detection_Resnet50_Final.pth")
        os.chdir(folder)
        try:
            made = GFPGANer("GFPGAN.pth", upscale=2, device=device)
        finally:
            os.chdir(before)
    made.face_helper.face_det = RetinaFace("mobile0.25", device=device)
    yield made


def guard_figures(pictures: Path, detector: Path, device: torch.device) -> dict[str, Any]:
    find = Detector(load_state(detector), "detector", Engine(device))
    guard = LikenessCheck(find.each)
    crops: list[tuple[Path, Samples]] = []
    for path in sorted(each for each in pictures.rglob("*") if each.suffix in (".png", ".jpg", ".avif")):
        with Image.open(path) as image:
            samples = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        for face in find(samples):
            # Small faces are degraded already, and a low score may be no face.
            if face.score >= 0.9 and face.eye_distance >= 40 and unfit(face) is None:
                crops.append((path, align(samples, face)[0]))
    figures: dict[str, Any] = {"faces": len(crops)}
    for factor in _FACTORS:
        degraded = [_degraded(crop, factor) for _, crop in crops]
        same = [guard([bad], [crop])[0] is None for bad, (_, crop) in zip(degraded, crops, strict=True)]
        others = [
            guard([bad], [crop])[0] is None
            for bad, (path, _) in zip(degraded, crops, strict=True)
            for other, crop in crops
            if other != path
        ]
        figures[f"{factor} times smaller"] = {
            "same_passed": f"{sum(same)} of {len(same)}",
            "others_passed": f"{sum(others)} of {len(others)}",
        }
    return figures


def _degraded(crop: Samples, factor: int) -> Samples:
    small = cv2.resize(crop, (SIDE // factor, SIDE // factor), interpolation=cv2.INTER_AREA).astype(np.float64)
    small += np.random.default_rng(0).normal(0, 8, small.shape)
    _, data = cv2.imencode(".jpg", np.clip(small, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])
    return cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of portraits")
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = pick_device(args.device)
    figures: dict[str, Any] = {"device": describe(device), "paste": paste_figures()}
    if args.pictures and args.detector:
        with Image.open(args.pictures / "astronaut_collins.png") as image:
            figures["enhance"] = enhance_figures(np.asarray(image.convert("RGB")), args.detector, device)
        figures["guard"] = guard_figures(args.pictures, args.detector, device)
    for name, row in figures.items():
        print(f"{name}: {row}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
