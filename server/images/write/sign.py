"""Sign a result by C2PA (Content Credentials), with the operator's certificate: what it was made from, and how.

The source is the manifest's parent ingredient, and its own manifest is kept in it. Nothing is fetched and no time
stamp is asked for, so that it works offline. Any change to the file after this breaks the signature.

Specification: https://spec.c2pa.org, 2.2. The package is c2pa-python, the extra `c2pa`.
"""

import io
import json
from pathlib import Path
from typing import Any, BinaryIO

from server.errors import Unavailable
from server.files import atomic_file
from server.images.metadata.provenance import TERMS, Origin
from server.images.read.sniff import sniff

CERTIFICATE = "upscale-server.certificate"
"""The label of our own assertion."""
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # of a large result it takes seconds
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False},
}
_INSTALL = "signing needs the package c2pa-python: pip install 'upscale-server[c2pa]'"


class Signer:
    def __init__(self, certificate: Path, key: Path) -> None:
        """PEM files: the chain, the signer's certificate first, and its private key. Raises Unavailable, with the
        reason, when they can't be read or don't fit together."""
        c2pa = _package()
        try:
            chain, private = certificate.read_bytes(), key.read_bytes()
        except OSError as error:
            raise Unavailable(f"signing: {error.filename} can't be read: {error.strerror}") from error
        self._c2pa = c2pa
        try:
            info = c2pa.C2paSignerInfo(alg=_algorithm(private), sign_cert=chain, private_key=private, ta_url=None)
            self._signer = c2pa.Signer.from_info(info)
            self._context = c2pa.Context.from_dict(_SETTINGS)
            signed = io.BytesIO()
            self._sign(io.BytesIO(_PIXEL), "image/gif", _PIXEL, Origin("test", generated=False), signed)
        except (c2pa.C2paError, ValueError, TypeError) as error:
            raise Unavailable(f"signing: {certificate} and {key} can't be used: {error}") from error
        store, state = manifest_of(signed.getvalue(), "image/gif") or ({}, "missing")
        if state not in ("Valid", "Trusted"):  # also when the key is not the certificate's
            failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", ())
            reasons = "; ".join(each["explanation"] for each in failures)
            raise Unavailable(f"signing: {certificate} and {key} can't be used: {reasons}")

    def sign(
        self, path: Path, mime: str, source: bytes, origin: Origin, certificate: dict[str, Any] | None = None
    ) -> None:
        """Replace the file by a signed one. `certificate`: of what was invented, for the manifest. Raises Unavailable
        when it can't be signed; the file is then as before."""
        try:
            with path.open("rb") as result, atomic_file(path) as partial, partial.open("w+b") as signed:
                self._sign(result, mime, source, origin, signed, certificate)
        except self._c2pa.C2paError as error:
            raise Unavailable(f"the result could not be signed: {error}") from error

    def _sign(
        self,
        result: BinaryIO,
        mime: str,
        source: bytes,
        origin: Origin,
        signed: BinaryIO,
        certificate: dict[str, Any] | None = None,
    ) -> None:
        name, _, version = origin.program.partition(" ")
        manifest: dict[str, Any] = {"claim_generator_info": [{"name": name, "version": version or "0"}]}
        if certificate is not None:
            # NOTE: as text, because the package's reader takes arrays of small whole numbers for bytes.
            manifest["assertions"] = [{"label": CERTIFICATE, "data": {"json": json.dumps(certificate)}}]
        builder = self._c2pa.Builder.from_json(manifest, context=self._context)
        builder.set_intent(self._c2pa.C2paBuilderIntent.EDIT)
        ingredient = {"title": "source", "relationship": "parentOf"}
        kind = sniff(source)
        if kind not in self._c2pa.Builder.get_supported_mime_types():
            kind = "application/octet-stream"  # only the hash of the bytes is known
        builder.add_ingredient(ingredient, kind, io.BytesIO(source))
        builder.add_action(
            {
                "action": "c2pa.edited",
                "digitalSourceType": TERMS + origin.digital_source_type,
                "softwareAgent": {"name": origin.program},
                "parameters": {f"upscale.{key}": value for key, value in origin.details},
            }
        )
        builder.sign(self._signer, mime, result, signed)


def manifest_of(data: bytes, mime: str) -> tuple[dict[str, Any], str] | None:
    """A file's manifest store as the package reports it, and its state: "Valid", "Trusted" or "Invalid". None if it has
    none. Raises Unavailable when the package is missing, or the manifest can't be read."""
    c2pa = _package()
    context = c2pa.Context.from_dict(_SETTINGS)
    try:
        reader = c2pa.Reader.try_create(mime, io.BytesIO(data), context=context)
        if reader is None:
            return None
        return json.loads(reader.json()), str(reader.get_validation_state())
    except c2pa.C2paError as error:
        raise Unavailable(f"the manifest can't be read: {error}") from error


def certificate_of(data: bytes, mime: str) -> tuple[dict[str, Any], str] | None:
    """The certificate in a file's manifest, and the manifest's state; None if there is none. Raises as
    `manifest_of`."""
    found = manifest_of(data, mime)
    if found is None:
        return None
    store, state = found
    assertions = store["manifests"][store["active_manifest"]].get("assertions", ())
    assertion = next((each["data"] for each in assertions if each["label"] == CERTIFICATE), None)
    try:
        return None if assertion is None else (json.loads(assertion["json"]), state)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable("the certificate in the manifest can't be read") from error


def _package() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise Unavailable(_INSTALL) from error
    return c2pa


def _algorithm(private: bytes) -> bytes:
    """C2PA's name of the signature algorithm for a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(private, None)
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    sizes = {256: b"es256", 384: b"es384", 521: b"es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size in sizes:
        return sizes[key.key_size]
    raise ValueError("the key must be RSA, Ed25519, or on one of the curves P-256, P-384 and P-521")


_PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")
"""A GIF of one pixel, which is signed to try the certificate."""
