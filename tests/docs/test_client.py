"""docs/client.md is right: each of its examples is run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LiveServer, Picture
from tests.paths import ROOT

TEXT = (ROOT / "docs" / "client.md").read_text("utf-8")
EXAMPLES = re.findall(r"^<!-- run -->\n```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LEFT = [["big.png"], ["exact.png"], ["big-2.png", "big-3.png", "big-4.png"], [], []]
"""The files that each of them leaves."""
SAYS = ["bytes", "succeeded 100%", "", "(8192, 4608)", "source_unreadable"]


def test_every_example_is_marked_to_be_run() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") == len(LEFT)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_does_what_it_says(live_server: LiveServer, picture: Picture, tmp_path: Path, number: int) -> None:
    live = live_server(api_keys=("a-key-of-ours",))
    live.worker.blobs.put("0" * 32 + ".jpeg", picture(40, 20))
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    code = EXAMPLES[number].replace("https://example.com/your-image.jpg", f"{live.url}/files/{'0' * 32}.jpeg")
    code = code.replace("http://127.0.0.1:8000", live.url).replace("your-key", "a-key-of-ours")
    env = os.environ | {"NO_PROXY": "*", "PYTHONPATH": str(ROOT)}
    with live.worker.working():
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert SAYS[number] in run.stdout
    assert sorted(each.name for each in tmp_path.glob("*.png") if each.name != "in.png") == LEFT[number]
