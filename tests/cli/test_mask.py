"""`--mask`, `--mask-box`, `--mask-keep` and `--grain`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.outcome import Run

MODEL = ("--model", "realesr-animevideov3", "--overwrite")


def made(run: Run, photo: Path, *options: Any) -> Any:
    outcome = run("upscale", photo, "-o", "out.png", *MODEL, *options)
    assert outcome.exit_code == 0, outcome.output
    return np.asarray(Image.open("out.png")).astype(int)


def test_boxes_and_a_picture_keep_the_strict_result(run: Run, photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        w, h = image.size
    Image.new("L", (4, 1), 0).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        mask.paste(255, (0, 0, 1, 1))
        mask.save(tmp_path / "mask.png")
    strict, asked = made(run, photo, "--creativity", -2), made(run, photo)
    picture = made(run, photo, "--mask", tmp_path / "mask.png")
    boxes = made(run, photo, "--mask-box", f"0,0,{w // 4},{h // 2}", "--mask-box", f"0,{h // 2},{w // 4},{h}")
    outside = made(run, photo, "--mask-box", f"{w // 4},0,{w},{h}", "--mask-keep", "outside")
    assert (boxes[:, :w] == strict[:, :w]).all() and (strict[:, :w] != asked[:, :w]).any()
    assert (picture == boxes).all() and (outside == boxes).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--mask-box", "1,2,3"), "--mask-box must be X,Y,WIDTH,HEIGHT"),
        (("--mask-box", "1,2,-3,4"), "--mask-box must be X,Y,WIDTH,HEIGHT"),
        (("--mask-box", "1,2,0,4"), "a box of a mask is four whole numbers"),
        (("--mask-keep", "outside"), "--mask-keep has no effect without"),
        (("--mask-box", "1,2,3,4", "--mask-keep", "both"), "keep of a mask must be inside or outside"),
        (("--mask-box", "1,2,3,4", "--mask", "photo.png"), "give either the boxes or the image"),
        (("--mask", "no.png"), "the mask: "),
        (("--grain", 2), "grain must be between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, photo: Path, options: tuple[Any, ...], says: str) -> None:
    Path("no.png").write_bytes(b"no picture")
    outcome = run("upscale", photo, "-o", "out.png", *options)
    assert outcome.exit_code in (1, 2) and says in outcome.stderr and outcome.stderr.count("\n") == 1
    assert not Path("out.png").exists()
