"""`python -m deploy.sbom FILE`: what the server consists of, as CycloneDX 1.6 in JSON.

The packages are those of requirements.lock, as `cyclonedx-py` finds them in the environment that runs this, with their
licences. The networks that come with them are added, with the hashes that the server checks.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from server import __version__
from server.weights.manifest import Entry, read_manifest

ROOT = Path(__file__).parents[1]
TOOL = "cyclonedx-py"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    bom = needed(environment())
    bom["metadata"]["component"]["version"] = __version__
    networks = [network(each) for each in read_manifest().entries.values() if each.bundled or each.package]
    bom["components"] += networks
    root = bom["metadata"]["component"]["bom-ref"]
    next(each for each in bom["dependencies"] if each["ref"] == root)["dependsOn"] += [
        each["bom-ref"] for each in networks
    ]
    Path(sys.argv[1]).write_text(json.dumps(bom, indent=2, sort_keys=True) + "\n", "utf-8")
    print(f"{sys.argv[1]}: {len(bom['components'])} components, {len(networks)} of them networks")


def environment() -> dict[str, Any]:
    """All that is installed, as `cyclonedx-py` says it."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    tool = shutil.which(TOOL, path=path)
    if tool is None:
        sys.exit(f"error: {TOOL} is missing; `make tools` installs it")
    command = [tool, "environment", "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
    done = subprocess.run([*command, sys.executable], stdout=subprocess.PIPE, check=True)
    bom: dict[str, Any] = json.loads(done.stdout)
    return bom


def needed(bom: dict[str, Any]) -> dict[str, Any]:
    """Without what only tests and tools need: what requirements.lock does not have."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    components = [each for each in bom["components"] if re.sub(r"[-_.]+", "-", each["name"]).lower() in locked]
    kept = {each["bom-ref"] for each in components} | {bom["metadata"]["component"]["bom-ref"]}
    dependencies = [
        {**each, "dependsOn": [ref for ref in each.get("dependsOn", []) if ref in kept]}
        for each in bom["dependencies"]
        if each["ref"] in kept
    ]
    return {**bom, "components": components, "dependencies": dependencies}


def network(entry: Entry) -> dict[str, Any]:
    sha256 = entry.package.sha256 if entry.package else entry.files[0].sha256
    return {
        "type": "machine-learning-model",
        "bom-ref": f"network:{entry.name}",
        "name": entry.name,
        "description": entry.note,
        "licenses": [{"license": {"id": entry.licence}}],
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


if __name__ == "__main__":
    main()
