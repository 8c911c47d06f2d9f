"""The label and the signature of results of every format, made in every way from every kind of source."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from server.cli import app
from server.config import BadConfig, load_config
from server.engine.engine import Engine
from server.errors import Unavailable
from server.faces import FaceRestorer
from server.images.metadata.provenance import COMPOSITE, ENHANCED, TERMS, TRAINED, Origin
from server.images.write.sign import Signer, manifest_of
from server.job.formats import FORMATS
from server.job.job import Faces, Params
from server.models import Model
from server.pipeline import Context, run
from server.refiners import load as load_refiner
from server.refiners.base import Refiner
from server.weights.catalog import Catalog
from server.weights.refiner import refiner_weights
from tests import networks as upscalers
from tests.pipeline.test_faces import model, portrait, restore  # noqa: F401 - fixtures

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {
    "-2": {"creativity": -2.0, "scale": 2},
    "0": {"creativity": 0.0, "scale": 2},
    "2": {"creativity": 2.0, "scale": 2},
    "faces": {"faces": Faces(strength=1), "scale": 1},
}
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'i:DigitalSourceType="{TERMS}digitalCapture"/></rdf:RDF></x:xmpmeta>'
).encode()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the command makes it."""
    folder = tmp_path_factory.mktemp("chain")
    result = CliRunner().invoke(app, ["signing-chain", str(folder)])
    assert result.exit_code == 0, result.output
    assert (folder / "key.pem").stat().st_mode & 0o077 == 0
    return folder


@pytest.fixture(scope="module")
def signer(chain: Path) -> Signer:
    return Signer(chain / "certificate.pem", chain / "key.pem")


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Refiner:
    cache = tmp_path_factory.mktemp("cache")
    return load_refiner(refiner_weights(Catalog(cache), "bundled", "cpu"), CPU, torch.float32, cache)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sources(signer: Signer) -> Callable[[str, Image.Image], bytes]:
    def made(kind: str, image: Image.Image) -> bytes:
        if kind == "unsigned":
            return jpeg(image)
        if kind == "XMP only":
            return jpeg(image, xmp=XMP)
        term = {"camera": "digitalCapture", "AI": TRAINED}[kind]

        class Other(Origin):
            digital_source_type = term  # type: ignore[assignment]

        signed = io.BytesIO()
        signer._sign(io.BytesIO(jpeg(image)), "image/jpeg", jpeg(image), Other("another program 1", False), signed)
        return signed.getvalue()

    return made


def inspected(path: Path) -> Any:
    result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "source", ["AI", *(pytest.param(each, marks=pytest.mark.slow) for each in ("unsigned", "camera", "XMP only"))]
)
def test_labels_and_signatures_of_all_formats_are_true(
    source: str,
    way: str,
    model: Model,  # noqa: F811
    restore: FaceRestorer,  # noqa: F811
    refiner: Refiner,
    signer: Signer,
    sources: Callable[[str, Image.Image], bytes],
    tmp_path: Path,
) -> None:
    image = portrait() if way == "faces" else portrait().resize((32, 32))
    data = sources(source, image)
    label = TRAINED if source == "AI" else COMPOSITE if way in ("2", "faces") else ENHANCED
    for form in FORMATS.values():
        ctx = Context(
            params=Params(format=form.name, **WAYS[way]),
            data=data,
            target=tmp_path / f"result{form.suffix}",
            engine=Engine(CPU),
            load=upscalers.loader(model),
            load_faces=lambda: restore,
            load_refiner=lambda: refiner,
            max_source_pixels=10**8,
            max_result_pixels=10**8,
        )
        run(ctx)
        assert ctx.origin is not None
        signer.sign(ctx.target, form.mime, data, ctx.origin)
        found = inspected(ctx.target)
        assert found["label"]["DigitalSourceType"] == label, form.name
        assert ("Refiner" in found["label"], "RestoredFaces" in found["label"]) == (way == "2", way == "faces")
        assert found["manifest"]["state"] == "Valid", form.name
        assert found["manifest"]["source types"] == label
        assert found["manifest"]["made from"] == "source" + " (signed)" * (source in ("camera", "AI"))
        with Image.open(ctx.target) as opened:
            opened.load()


def test_a_change_after_signing_is_seen(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "a.jpeg"
    path.write_bytes(jpeg(portrait()))
    signer.sign(path, "image/jpeg", path.read_bytes(), Origin("upscale-server 1", generated=False))
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert inspected(path)["manifest"]["state"] == "Invalid"


def test_a_source_of_a_format_that_can_t_be_signed_is_named_all_the_same(signer: Signer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    portrait().save(buffer, "bmp")
    path = tmp_path / "a.png"
    portrait().save(path)
    signer.sign(path, "image/png", buffer.getvalue(), Origin("upscale-server 1", generated=True))
    found = manifest_of(path.read_bytes(), "image/png")
    assert found is not None and found[1] == "Valid"


def test_a_picture_without_label_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    portrait().save(path)
    assert inspected(path) == {"label": {}, "manifest": None, "hdr": None}
    (tmp_path / "b.txt").write_text("no picture")
    assert CliRunner().invoke(app, ["inspect", str(tmp_path / "b.txt")]).exit_code == 1


def test_certificates_that_can_t_be_used_are_refused_at_the_start(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="can't be read"):
        Signer(tmp_path / "none.pem", chain / "key.pem")
    with pytest.raises(Unavailable, match="can't be used"):
        Signer(chain / "key.pem", chain / "key.pem")
    other = tmp_path / "other"
    assert CliRunner().invoke(app, ["signing-chain", str(other)]).exit_code == 0
    with pytest.raises(Unavailable, match="can't be used"):
        Signer(chain / "certificate.pem", other / "key.pem")
    assert CliRunner().invoke(app, ["signing-chain", str(other)]).exit_code == 1, "nothing is overwritten"


def test_certificate_and_key_go_together(chain: Path) -> None:
    with pytest.raises(BadConfig, match="go together"):
        load_config(c2pa_cert=chain / "certificate.pem")
