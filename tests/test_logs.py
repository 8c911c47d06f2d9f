"""What goes into the log, and what must not."""

import json
import subprocess
import sys

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
