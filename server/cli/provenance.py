"""`inspect`: what a picture file says about its origin, and whether it is HDR. `signing-chain`: certificates to try
signing with."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.base import AsJson, fail, plain, plain_errors, stdout
from server.cli.sources import read

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

_VALID_DAYS = 3650
_MOST_BYTES = 1 << 30
"""Of a pipe; a file may be larger."""
_MOST_PIXELS = 1 << 40
"""Nothing is decoded, so any size will do."""


def inspect(
    file: Annotated[Path, typer.Argument(help="A picture file.")],
    as_json: AsJson = False,
) -> None:
    """Print what a picture file says about how it was made: its label, and its signed manifest if it has one; and
    whether it is HDR."""
    from server.errors import Unavailable
    from server.images.metadata import provenance
    from server.images.metadata.metadata import packet_of
    from server.images.read.open import open_picture, read_header
    from server.images.read.sniff import sniff
    from server.images.write.sign import manifest_of

    with plain_errors():
        try:
            data = read(file, _MOST_BYTES)
        except OSError as error:
            fail(f"{file}: {error.strerror}")
        mime = sniff(data)
        if mime is None:
            fail(f"{file} is no picture that this program knows")
        packet = packet_of(open_picture(data, _MOST_PIXELS), data)
        facts: dict[str, Any] = {"label": provenance.read(packet) if packet else {}}
        facts["hdr"] = read_header(data, _MOST_PIXELS).hdr
        try:
            manifest = manifest_of(data, mime)
        except Unavailable as error:
            facts["manifest"] = {"error": error.message}
        else:
            facts["manifest"] = manifest and _summary(*manifest)
    if as_json:
        print(json.dumps(facts))
        return
    rows = [*facts["label"].items()] or [("label", "none")]
    rows += [(f"manifest: {key}", value) for key, value in (facts["manifest"] or {"state": "none"}).items()]
    rows.append(("HDR", facts["hdr"] or "no"))
    for name, value in rows:
        stdout.print(f"{name:<24} {plain(value)}", markup=False, highlight=False, soft_wrap=True)


def _summary(store: dict[str, Any], state: str) -> dict[str, Any]:
    active = store["manifests"][store["active_manifest"]]
    actions = [
        action
        for each in active.get("assertions", ())
        if each["label"].startswith("c2pa.actions")
        for action in each["data"]["actions"]
    ]
    types = [each["digitalSourceType"].rpartition("/")[2] for each in actions if "digitalSourceType" in each]
    ingredients = active.get("ingredients", ())
    return {
        "state": state,
        "signed by": active.get("signature_info", {}).get("issuer", ""),
        "made with": ", ".join(each["name"] for each in active.get("claim_generator_info", ())),
        "source types": ", ".join(types),
        "made from": ", ".join(
            each.get("title", "") + (" (signed)" if "active_manifest" in each else "") for each in ingredients
        ),
    }


def signing_chain(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one without these files.")],
) -> None:
    """Make a private certificate chain to try signing with: certificate.pem and key.pem.

    Readers will say that results are valid, but not by whom they trust: for that the certificate must come from an
    authority on the C2PA trust list.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    chain, key = folder / "certificate.pem", folder / "key.pem"
    for path in (chain, key):
        if path.exists():
            fail(f"{path} is there already")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        root_key, root = _certificate("upscale-server private root", None)
        leaf_key, leaf = _certificate("upscale-server", (root_key, root))
        key.touch(0o600)
        key.write_bytes(leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        chain.write_bytes(leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    print(f"UPSCALE_C2PA_CERT={chain.resolve()}\nUPSCALE_C2PA_KEY={key.resolve()}")


def _certificate(
    name: str, issuer: "tuple[EllipticCurvePrivateKey, Certificate] | None"
) -> "tuple[EllipticCurvePrivateKey, Certificate]":
    """A key and its certificate by the C2PA profile; without an issuer that of an authority, which signs itself."""
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    signing_key, above = (key, subject) if issuer is None else (issuer[0], issuer[1].subject)
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    uses = dict.fromkeys([*unused, "encipher_only", "decipher_only"], False)
    uses |= {"digital_signature": issuer is not None, "key_cert_sign": issuer is None}
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.KeyUsage(**uses), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if issuer is not None:
        built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return key, built.sign(signing_key, hashes.SHA256())
