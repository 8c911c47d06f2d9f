"""docs/webhooks.md is right: its functions accept what a real server delivers, and nothing else."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.api.dialects.replicate import translate as replicate
from server.api.dialects.wavespeed import translate as wavespeed
from tests.conftest import LiveServer, Picture, Received, Receiver
from tests.paths import ROOT

TEXT = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
Judge = Callable[[list[tuple[str, dict[str, str], bytes, str]]], list[bool]]


def code(language: str) -> str:
    found = re.search(rf"^<!-- run: {language} -->\n```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(params=["python", "js"])
def judge(request: pytest.FixtureRequest, tmp_path: Path) -> Judge:
    """What the document's function says of each message."""
    if request.param == "python":
        names: dict[str, Any] = {}
        exec(code("python"), names)
        return lambda messages: [names["is_genuine"](*each) for each in messages]
    if not shutil.which("node"):
        pytest.skip("there is no Node.js")
    (tmp_path / "verify.mjs").write_text(code("js"))
    (tmp_path / "run.mjs").write_text(
        'import { isGenuine } from "./verify.mjs";\n'
        "const messages = JSON.parse(process.argv[2]);\n"
        "console.log(JSON.stringify(messages.map(([api, headers, body, secret]) =>"
        ' isGenuine(api, headers, Buffer.from(body, "base64"), secret))));\n'
    )

    def run(messages: list[tuple[str, dict[str, str], bytes, str]]) -> list[bool]:
        given = json.dumps([(api, head, base64.b64encode(body).decode(), key) for api, head, body, key in messages])
        command = ["node", "run.mjs", given]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        judged: list[bool] = json.loads(done.stdout)
        return judged

    return run


REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "wavespeed": ("/api/v3/wavespeed-ai/real-esrgan", {"scale": 2}, "/api/v3/webhook/secret"),
    "replicate": ("/v1/models/nightmareai/real-esrgan/predictions", {"scale": 2}, "/v1/webhooks/default/secret"),
}


@pytest.mark.parametrize("api", REQUESTS)
def test_it_accepts_a_delivery_and_no_forgery(
    live_server: LiveServer, receiver: Receiver, picture: Picture, judge: Judge, api: str
) -> None:
    live = live_server(api_keys=("ours", "theirs"), allow_hosts=("127.0.0.1",))
    path, fields, secret_path = REQUESTS[api]
    image = f"data:image/png;base64,{base64.b64encode(picture(16, 8)).decode()}"
    body = {"image": image, **fields, "webhook": receiver.url}
    if api == "replicate":
        body = {"input": {"image": image, **fields}, "webhook": receiver.url, "webhook_events_filter": ["completed"]}
    ours, theirs = ({"Authorization": f"Bearer {key}"} for key in ("ours", "theirs"))
    assert live.client.post(path, json=body, headers=ours).is_success
    live.worker.finish()
    got: Received = receiver.wait()[0]
    answers = [live.client.get(secret_path, headers=each).json() for each in (ours, theirs)]
    secret, other = (each.get("key") or each["data"]["secret"] for each in answers)
    head = {name.lower(): value for name, value in got.headers.items() if name.lower().startswith("webhook-")}
    sign = {"wavespeed": wavespeed.sign, "replicate": replicate.sign}[api]
    hour_ago = int(head["webhook-timestamp"]) - 3600
    repeated = {
        "webhook-timestamp": str(hour_ago),
        "webhook-signature": sign(secret, head["webhook-id"], hour_ago, got.body),
    }
    messages = [
        (api, head, got.body, secret),
        (api, head, got.body + b" ", secret),
        (api, head, got.body, other),
        (api, head | {"webhook-id": "0" * 32}, got.body, secret),
        (api, head | repeated, got.body, secret),
        (api, head | {"webhook-timestamp": "soon"}, got.body, secret),
        (api, {}, got.body, secret),
    ]
    assert judge(messages) == [True] + [False] * 6
