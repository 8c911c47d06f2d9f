"""docs/migrating.md is right: each of its Python snippets is run as it stands, and its link leads to a picture."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from PIL import Image

from server.api.dialects import DIALECTS
from tests.conftest import LiveServer, Picture
from tests.paths import ROOT

TEXT = (ROOT / "docs" / "migrating.md").read_text("utf-8")
BESIDE = [ROOT / ".venv" / "old-clients", ROOT / ".venv" / "new-clients"]
"""Where clients lie that can't be installed beside others; see the Makefile."""
SPOKEN = {each.NAME for each in DIALECTS}


class Snippet(NamedTuple):
    dialect: str
    client: str
    """Its version where it is not the one installed, else empty."""
    code: str
    number: int


_MARKED = re.compile(r"^<!-- run: (\w+)(?:, client ([\d.]+))? -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = [Snippet(m[1], m[2] or "", m[3], number) for number, m in enumerate(_MARKED.finditer(TEXT))]


def test_every_python_snippet_is_marked_to_be_run() -> None:
    assert len(SNIPPETS) == TEXT.count("```python\n") >= 6
    assert {each.dialect for each in SNIPPETS} >= {
        "wavespeed",
        "vibedream",
        "novita",
        "runware",
        "replicate",
        "webui",
        "mcp",
    }


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda each: f"{each.dialect}{each.client}-{each.number}")
def test_a_snippet_prints_a_link_to_its_picture(
    live_server: LiveServer, picture: Picture, tmp_path: Path, snippet: Snippet
) -> None:
    if snippet.dialect not in SPOKEN:
        pytest.skip(f"{snippet.dialect} is not spoken yet")
    live = live_server(api_keys=("a-key-of-ours",))
    live.worker.blobs.put("0" * 32 + ".jpeg", picture(40, 20))
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    code = snippet.code
    for theirs, ours in (
        ("https://example.com/your-image.jpg", f"{live.url}/files/{'0' * 32}.jpeg"),
        ("http://127.0.0.1:8000", live.url),
        ("ws://127.0.0.1:8000", live.url.replace("http", "ws")),
        ("your-key", "a-key-of-ours"),
    ):
        code = code.replace(theirs, ours)
    assert "8000" not in code and "your" not in code
    env = {**os.environ, "NO_PROXY": "*"}  # clients ask the environment, whose proxy can't reach loopback
    if snippet.client:
        package = {"wavespeed": "wavespeed", "runware": "runware_sdk"}[snippet.dialect]
        if package == "runware_sdk" and sys.version_info < (3, 11):
            pytest.skip("runware-sdk wants Python 3.11")
        (folder,) = [each for each in BESIDE if (each / f"{package}-{snippet.client}.dist-info").is_dir()]
        env["PYTHONPATH"] = str(folder)
    with live.worker.working():
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=90
        )
    assert run.returncode == 0, run.stderr
    link = run.stdout.split()[-1]
    assert link.startswith(live.url), run.stdout
    with Image.open(io.BytesIO(httpx.get(link, trust_env=False, timeout=60).content)) as image:
        assert image.width >= 80


def test_every_line_of_the_table_is_in_a_snippet() -> None:
    lines = re.findall(r"^\|[^|]*\|[^|]*\| `(.*)` \|$", TEXT, re.MULTILINE)
    assert len(lines) == 15
    snippets = "".join(re.findall(r"^```(?:python|py|js)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
    for line in lines:
        assert line.removeprefix("POST ") in snippets, line


def test_every_link_within_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= headings
