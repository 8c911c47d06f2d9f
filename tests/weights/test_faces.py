"""The weights for faces, and the error if they are missing."""

from pathlib import Path

import pytest

from server.errors import ModelNotFound
from server.weights.catalog import Catalog
from server.weights.faces import face_weights

NEEDED = ("GFPGANv1.4.pth", "detection_Resnet50_Final.pth")


def put(folder: Path, *names: str) -> Catalog:
    for name in names:
        (folder / name).write_bytes(b"the API half only looks whether it is there")
    return Catalog(folder)


def test_the_best_of_each_kind(tmp_path: Path) -> None:
    others = ("GFPGANv1.3.pth", "detection_mobilenet0.25_Final.pth")
    found = face_weights(put(tmp_path, *others))
    assert (found.restorer.name, found.detector.name, found.parser) == ("GFPGANv1.3", "retinaface-mobile0.25", None)
    found = face_weights(put(tmp_path, *NEEDED, "parsing_parsenet.pth"))
    assert (found.restorer.name, found.detector.name) == ("GFPGANv1.4", "retinaface-resnet50")
    assert found.parser is not None and found.parser.name == "parsenet"


@pytest.mark.parametrize("missing", NEEDED)
def test_missing_ones_are_an_error_that_says_what_installs_them(tmp_path: Path, missing: str) -> None:
    catalog = put(tmp_path, *(name for name in NEEDED if name != missing))
    with pytest.raises(ModelNotFound, match="weights pull gfpgan") as raised:
        face_weights(catalog)
    assert raised.value.field == "faces"


def test_a_licence_that_the_operator_refuses(tmp_path: Path) -> None:
    put(tmp_path, *NEEDED)
    with pytest.raises(ModelNotFound, match="UPSCALE_LICENCE_POLICY"):
        face_weights(Catalog(tmp_path, policy="commercial"))
