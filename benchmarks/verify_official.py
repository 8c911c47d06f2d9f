"""Faces with the official checkpoints, on your machine: `make verify-official PICTURES="one.jpg two.jpg"`.

This project was developed without the weights of GFPGAN, RetinaFace-ResNet50 and ParseNet; this script checks the
results with them. Needs `python -m server weights pull gfpgan` and pictures with faces. It checks for each picture:

* that there are faces, and that at least one of them is restored;
* that aligned faces, restored faces and the pasted result equal those of `GFPGANer.enhance`, after two corrections in
  it: it adds noise from the global generator, and it pastes half a pixel too far to the right and down.

Prints a line for each check, and exits with 1 if any has failed.
"""

import argparse
import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from server.config import load_config
from server.engine.device import pick_device
from server.engine.engine import Engine
from server.errors import UpscaleError
from server.faces import FaceRestorer, Outcome, Paste, RestoredFace, load
from server.faces.align import align
from server.faces.base import Face
from server.images.read.open import Samples
from server.job.job import Faces
from server.models import basicsr_shim  # noqa: F401  # before gfpgan
from server.weights.catalog import Catalog
from server.weights.faces import FaceWeights, face_weights

_UPSCALE = 2
_MOST_DIFFERENT = 2
"""Of 255, in any sample of faces that the same arithmetic has made: each of the two rounds once more than the other."""


def theirs(weights: FaceWeights, device: torch.device) -> Any:
    """GFPGANer with these files, which it searches in the working folder."""
    from gfpgan import GFPGANer

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder, "gfpgan", "weights")
        expected.mkdir(parents=True)
        assert weights.parser is not None
        for name, found in (
            ("detection_Resnet50_Final.pth", weights.detector),
            ("parsing_parsenet.pth", weights.parser),
        ):
            (expected / name).symlink_to(found.path.resolve())
        os.chdir(folder)
        try:
            made = GFPGANer(str(weights.restorer.path.resolve()), upscale=_UPSCALE, device=device)
        finally:
            os.chdir(before)
    made.gfpgan.forward = functools.partial(made.gfpgan.forward, randomize_noise=False)
    return made


def enhance(gfpganer: Any, samples: Samples, faces: list[Face]) -> tuple[list[Any], list[Any], NDArray[np.uint8]]:
    """Aligned faces, restored faces and the result, all RGB, for the faces that the server has found."""
    helper = gfpganer.face_helper
    helper.clean_all()
    helper.read_image(np.ascontiguousarray(samples[..., ::-1]))
    helper.all_landmarks_5 = [face.landmarks for face in faces]
    helper.align_warp_face()
    crops = list(helper.cropped_faces)
    restored = [gfpganer.enhance(crop, has_aligned=True)[1][0] for crop in crops]
    helper.clean_all()
    helper.read_image(np.ascontiguousarray(samples[..., ::-1]))
    helper.all_landmarks_5 = [face.landmarks for face in faces]
    helper.align_warp_face()
    helper.restored_faces = restored
    helper.get_inverse_affine()
    for matrix in helper.inverse_affine_matrices:
        matrix[:, 2] -= 0.5
    result = helper.paste_faces_to_input_image(upsample_img=_enlarged(samples)[..., ::-1])
    return [crop[..., ::-1] for crop in crops], [face[..., ::-1] for face in restored], result[..., ::-1]


def ours(samples: Samples, outcomes: list[Outcome]) -> NDArray[np.uint8]:
    result = _enlarged(samples)
    height, width = samples.shape[:2]
    restored = [outcome.restored for outcome in outcomes if outcome.restored is not None]
    Paste(restored, (width, height), (width * _UPSCALE, height * _UPSCALE), 1.0).into(result, 0)
    return result


def _enlarged(samples: Samples) -> NDArray[np.uint8]:
    height, width = samples.shape[:2]
    size = width * _UPSCALE, height * _UPSCALE
    return np.ascontiguousarray(cv2.resize(samples, size, interpolation=cv2.INTER_LANCZOS4), np.uint8)


def checks(restore: FaceRestorer, gfpganer: Any, samples: Samples) -> list[tuple[str, bool]]:
    """The checks of one picture."""
    outcomes = restore(samples, Faces())
    for number, outcome in enumerate(outcomes):
        print(f"  face {number}: score {outcome.face.score:.3f}, {outcome.reason or 'restored'}")
    done = [outcome for outcome in outcomes if outcome.restored is not None]
    said = [(f"{len(outcomes)} faces, {len(done)} restored", bool(done))]
    if done:
        crops, faces, result = enhance(gfpganer, samples, [outcome.face for outcome in done])
        restored = [outcome.restored for outcome in done if isinstance(outcome.restored, RestoredFace)]
        pairs = {
            "aligned": [(align(samples, each.face)[0], crop) for each, crop in zip(done, crops, strict=True)],
            "restored": [(each.image * 255, face) for each, face in zip(restored, faces, strict=True)],
            "pasted": [(ours(samples, outcomes), result)],
        }
        for name, both in pairs.items():
            most = max(float(np.abs(np.asarray(one, np.float64) - other).max()) for one, other in both)
            said.append((f"{name}: at most {most:.2f} of 255 from GFPGANer's", most <= _MOST_DIFFERENT))
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="with faces, up to 1600 pixels long")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    try:
        weights = face_weights(Catalog.of(load_config()))
        restore = load(weights, Engine(device), torch.float32)  # verifies the files
    except UpscaleError as error:
        sys.exit(f"error: {error.message}")
    if weights.parser is None or weights.detector.name != "retinaface-resnet50":
        sys.exit(
            "error: GFPGANer wants retinaface-resnet50 and parsenet; `python -m server weights pull gfpgan` gets them"
        )
    print(f"{weights.restorer.name}, {weights.detector.name}, {weights.parser.name}: files and layouts are right")
    gfpganer = theirs(weights, device)
    failed = False
    for path in args.pictures:
        print(path)
        with Image.open(path) as image:
            samples = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        for words, well in checks(restore, gfpganer, samples):
            print(f"  {'ok' if well else 'FAILED'}  {words}")
            failed = failed or not well
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
