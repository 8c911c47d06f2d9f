"""What the log contains, and what it must not contain."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from server.logs import configure_logs
from tests.conftest import LiveServer, Picture, Receiver, plain_logs
from tests.outbound.test_source import say, serving


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """Restores the settings of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    plain_logs()


SCRIPT = """
import structlog
from server.logs import configure_logs
configure_logs()
def fail(authorization):
    raise ValueError("broken")
try:
    fail("Bearer very-secret")
except ValueError:
    structlog.get_logger().exception("it broke", job="1")
"""


def test_a_traceback_tells_where_and_not_with_which_values() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    line = json.loads(run.stderr.splitlines()[-1])
    assert line["event"] == "it broke" and line["job"] == "1"
    assert [frame["name"] for frame in line["exception"][0]["frames"]] == ["<module>", "fail"]
    assert line["exception"][0]["exc_value"] == "broken"
    assert "very-secret" not in run.stderr


@pytest.mark.usefixtures("logs_as_before")
def test_every_line_about_a_job_names_it(
    live_server: LiveServer, receiver: Receiver, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    """From its submit to its last delivery, in all processes."""
    configure_logs()
    live = live_server(allow_hosts=("127.0.0.1",))
    receiver.answers = [500]
    with serving(say("200 OK", picture()), "127.0.0.1") as url:
        body = {"image": f"{url}/a.png", "scale": 2}
        path = f"/api/v3/wavespeed-ai/real-esrgan?webhook={receiver.url}"
        job_id = live.client.post(path, json=body).json()["data"]["id"]
        live.worker.finish()
        receiver.wait(2)
    live.client.post("/jobs", json={"image": "http://127.0.0.1:1/a.png"})
    said: list[dict[str, Any]] = []
    deadline = time.monotonic() + 10
    while not {"delivered", "source refused"} <= {each["event"] for each in said}:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
        said += [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [each["event"] for each in said if each.get("job") == job_id] == [
        "job accepted",
        "source fetched",
        "delivery failed",
        "delivered",
    ]
    events = ("job accepted", "source fetched", "source refused", "delivery failed", "delivered")
    assert all(len(each["job"]) == 32 for each in said if each["event"] in events)
