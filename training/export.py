"""Convert a training checkpoint to a bundled file, and update the manifest.

    python -m training.export training/runs/fidelity/latest.pt --name fidelity-x4

Takes the averaged weights (`params_ema`) to fp16 safetensors, with what one must know to rebuild the network in the
file's metadata. The same checkpoint always gives the same bytes, so the manifest's hash can be checked by anybody who
has it.
"""

import argparse
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

PROJECT = "upscale-server"
LICENCE = "Apache-2.0"


def export(checkpoint: Path, name: str, out: Path) -> Path:
    """Write OUT/<name>.safetensors, atomically."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors = {key: tensor.half().contiguous() for key, tensor in state["params_ema"].items()}
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise SystemExit(f"{key} does not fit fp16; {checkpoint} looks damaged")
    metadata = {
        "project": PROJECT,
        "name": name,
        "licence": LICENCE,
        "architecture": json.dumps({"class": "SRVGGNetCompact"} | state["architecture"]),
        "steps": str(state["step"]),
    }
    if "upscale" in state["architecture"]:
        metadata["scale"] = str(state["architecture"]["upscale"])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    partial = path.with_suffix(".partial")
    partial.write_bytes(serialise(tensors, metadata))
    os.replace(partial, path)
    return path


def serialise(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file. The library writes the metadata in random order, so the header is written again, in order."""
    data = save(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:end])
    header["__metadata__"] = metadata
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def update_manifest(manifest: Path, name: str, sha256: str, size_bytes: int) -> None:
    """Set the two lines of the entry; everything else, comments included, stays."""
    text = manifest.read_text("utf-8")
    entry = re.search(rf"^\[models\.{re.escape(name)}\]\n(?:(?!\[).*\n?)*", text, re.MULTILINE)
    if entry is None:
        raise SystemExit(f"{manifest} has no entry [models.{name}]; add it first (weights/README.md says how)")
    edited = entry.group()
    for key, value in (("sha256", f'"{sha256}"'), ("bytes", str(size_bytes))):
        edited, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", edited, flags=re.MULTILINE)
        if found != 1:
            raise SystemExit(f"{manifest}: [models.{name}] needs exactly one line {key!r}, but has {found}")
    partial = manifest.with_suffix(".partial")
    partial.write_text(text[: entry.start()] + edited + text[entry.end() :], "utf-8")
    os.replace(partial, manifest)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="OUT/latest.pt of a training run")
    parser.add_argument("--name", required=True, help="the model's name in the manifest")
    parser.add_argument("--out", type=Path, default=Path("weights/bundled"), help="manifest.toml lies one folder up")
    args = parser.parse_args(argv)
    path = export(args.checkpoint, args.name, args.out)
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    update_manifest(args.out.parent / "manifest.toml", args.name, sha256, len(data))
    print(f"{path}  {len(data)} bytes  sha256 {sha256}")


if __name__ == "__main__":
    main()
