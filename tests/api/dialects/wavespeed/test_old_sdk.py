"""The vendor's client of 2025, 1.0.3, which still is in use: it uploads by a form, and knows no tickets.

`make venv` puts it beside the current one, into a folder of its own; so it runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.dialects.wavespeed.test_sdk import size_at
from tests.conftest import Live, LiveServer, Picture

OLD_CLIENTS = Path(sys.prefix) / "old-clients"

pytestmark = pytest.mark.skipif(
    not (OLD_CLIENTS / "wavespeed").is_dir(), reason=f"{OLD_CLIENTS} is not there: `make venv` fills it"
)

SCRIPT = """
import json, sys
import wavespeed
from wavespeed import Client
assert wavespeed.__version__ == "1.0.3", wavespeed.__version__
url, key, call, *arguments = json.loads(sys.argv[1])
client = Client(api_key=key, base_url=url)
try:
    print(json.dumps(getattr(client, call)(*arguments[:-1], **arguments[-1])))
except RuntimeError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def server(live_server: LiveServer) -> Iterator[Live]:
    live = live_server(api_keys=("ws-key",))
    with live.worker.working():
        yield live


def call(server: Live, name: str, *arguments: Any, key: str = "ws-key", **options: Any) -> Any:
    """What the method returns, or says when it raises."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([server.url, key, name, *arguments, options])]
    env = os.environ | {"PYTHONPATH": str(OLD_CLIENTS), "NO_PROXY": "*"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_upload_by_form_then_both_models(server: Live, picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    url = call(server, "upload", str(tmp_path / "in.png"))
    assert url.startswith(f"{server.url}/files/")
    body = {"image": url, "target_resolution": "2k", "output_format": "webp"}
    upscaled = call(server, "run", "wavespeed-ai/image-upscaler", body, poll_interval=0.05)
    assert size_at(upscaled["outputs"][0]) == ("WEBP", (2048, 1024))
    scaled = call(server, "run", "wavespeed-ai/real-esrgan", {"image": url, "scale": 3}, enable_sync_mode=True)
    assert size_at(scaled["outputs"][0]) == ("PNG", (120, 60))


def test_a_failure_is_reported(server: Live) -> None:
    body = {"image": "http://127.0.0.1:9/a.png"}
    told = call(server, "run", "wavespeed-ai/real-esrgan", body, poll_interval=0.05)
    assert told == "Prediction failed: the picture's address is not one that this server may fetch from"
    # In sync mode this version reads only the outputs of an answer.
    told = call(server, "run", "wavespeed-ai/real-esrgan", body, enable_sync_mode=True)
    assert told == {"outputs": []}


def test_a_wrong_key_is_reported(server: Live) -> None:
    told = call(server, "run", "wavespeed-ai/real-esrgan", {"image": "x"}, key="wrong")
    assert told.startswith("Failed to submit prediction: HTTP 401: ") and "Invalid API key" in told
