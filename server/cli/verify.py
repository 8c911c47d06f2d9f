"""`verify`: what a result shows that its source does not, computed from the two files."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.base import AsJson, fail, plain, plain_errors, stdout
from server.cli.sources import read

_MOST_BYTES = 1 << 30
"""Of a pipe; a file may be larger."""


def verify(
    source: Annotated[Path, typer.Argument(help="The picture that was enlarged.")],
    result: Annotated[Path, typer.Argument(help="What it was enlarged to.")],
    certificate: Annotated[
        Path | None,
        typer.Option(help="A certificate to check (.json). Default: the one in the result's signed manifest."),
    ] = None,
    heat_map: Annotated[Path | None, typer.Option(help="Write the heat map to this file, as PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compute what a result shows that its source does not, and compare it with the result's certificate.

    The exit code is 1 if they differ, or if the signature is not valid. Where tiles were joined, which faces were
    restored, and the colour behind transparent pixels are not in the pictures: these are taken from the certificate.
    """
    from server.files import atomic_file
    from server.pipeline.certificate import certify, differences, known_of
    from server.rows.certificate import Known

    with plain_errors():
        pictures = read(source, _MOST_BYTES), read(result, _MOST_BYTES)
        claimed, problems, notes = _claimed(certificate, pictures[1])
        if claimed is None:
            found = certify(*pictures, Known())
        else:
            found = certify(*pictures, *known_of(claimed))
            problems += differences(claimed, found.facts)
        if heat_map is not None:
            with atomic_file(heat_map) as partial:
                partial.write_bytes(found.heat_map)
    ours, theirs = (found.facts[name]["width"] / found.facts[name]["height"] for name in ("source", "result"))
    if abs(ours / theirs - 1) > 0.02:
        notes.append("the pictures have other shapes: one is a part of the other, or stretched")
    if as_json:
        checked = {"checked": claimed is not None, "problems": problems, "notes": notes}
        print(json.dumps({"certificate": found.facts, **checked}))
    else:
        for name, value in _rows(found.facts):
            stdout.print(f"{name:<24} {plain(value)}", markup=False, highlight=False, soft_wrap=True)
        for text in [*notes, *problems]:
            stdout.print(plain(text), markup=False, highlight=False, soft_wrap=True)
        if claimed is not None and not problems:
            stdout.print("the certificate is right", highlight=False)
    if problems:
        raise typer.Exit(1)


def _claimed(path: Path | None, result: bytes) -> tuple[dict[str, Any] | None, list[str], list[str]]:
    """The certificate that is to be checked, problems with its signature, and notes."""
    from server.errors import Unavailable
    from server.images.read.sniff import sniff
    from server.images.write.sign import certificate_of

    if path is not None:
        try:
            with path.open("rb") as file:
                facts = json.loads(file.read(_MOST_BYTES))
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict):
            fail(f"{path} is no certificate")
        return {name: value for name, value in facts.items() if name != "heat_map"}, [], []
    try:
        signed = certificate_of(result, sniff(result) or "")
    except Unavailable as error:
        return None, [], [error.message]
    if signed is None:
        return None, [], ["there is no certificate to compare with: neither a file, nor in a signed manifest"]
    facts, state = signed
    return facts, [] if state in ("Valid", "Trusted") else [f"the signature is not valid: its state is {state}"], []


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    difference, drift, seams = facts["difference"], facts["drift"], facts["seams"]
    sizes = ["{width}×{height}".format(**facts[name]) for name in ("source", "result")]
    rows = [
        ("sizes", " to ".join(sizes)),
        ("colours", facts["colours"]),
        ("difference", "mean {mean}, 99th percentile {p99}, maximum {max} levels".format(**difference)),
        ("fine energy", f"{100 * facts['fine_energy']:.2f} %"),
        ("colour drift", "mean {mean}, local {local} levels".format(**drift)),
        ("seam score", "none: no certificate names joints of tiles" if seams is None else str(seams)),
    ]
    for number, face in enumerate(facts["faces"]):
        rows.append((f"face {number}", "correlation {correlation}, difference {difference} levels".format(**face)))
    return rows
