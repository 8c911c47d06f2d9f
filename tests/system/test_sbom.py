"""`make sbom`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server import __version__
from server.weights.manifest import read_manifest
from tests.paths import ROOT


@pytest.mark.slow
def test_it_lists_what_is_installed_and_the_networks_and_nothing_of_the_tests(tmp_path: Path) -> None:
    # Here, because its formats take a second, and all processes of the suite import this module.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    path = tmp_path / "sbom.json"
    subprocess.run([sys.executable, "-m", "deploy.sbom", str(path)], cwd=ROOT, check=True, timeout=240)
    text = path.read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    assert (bom["metadata"]["component"]["name"], bom["metadata"]["component"]["version"]) == (
        "upscale-server",
        __version__,
    )
    packages = {each["name"].lower() for each in bom["components"] if each["type"] == "library"}
    assert {"torch", "basicsr", "gfpgan", "fastapi", "diffusers", "psycopg"} <= packages
    assert not {"pytest", "ruff", "mypy", "realesrgan", "upscale-server"} & packages
    hashes = {each["hashes"][0]["content"] for each in bom["components"] if each["type"] == "machine-learning-model"}
    entries = read_manifest().entries.values()
    assert hashes == {each.files[0].sha256 for each in entries if each.bundled} | {
        each.package.sha256 for each in entries if each.package
    }
    assert not re.search(r"file://|/home/|/root/|/tmp/", text), "no path of the machine that made it"
