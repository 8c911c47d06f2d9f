"""The documents are true: tables as the code has them, links that lead somewhere, commands that the command line takes,
snippets that run, figures that were measured."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.tables import ROOT, TABLES, documents, renewed, unit
from server.api.dialects import DIALECTS
from server.api.dialects.native.openapi import OPERATIONS
from server.api.openapi.document import document
from server.cli import app
from server.config import Config
from server.weights.manifest import read_manifest
from tests.conftest import LiveServer, Picture

DOCUMENTS = documents()
IMAGES = re.compile(r"\.(jpg|png|svg)$")
OWN_ROUTES = {"GET /docs", "GET /healthz", "GET /readyz", "GET /metrics"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(text: str) -> Iterator[str]:
    """What stands in fences of shell."""
    yield from re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_no_table_is_stale(path: Path) -> None:
    text = path.read_text("utf-8")
    assert renewed(text) == text, "run: python -m docs.tables"


def test_every_table_stands_somewhere() -> None:
    shown = {name for path in DOCUMENTS for name in re.findall(r"<!-- table: ([\w-]+) -->", path.read_text("utf-8"))}
    assert shown == set(TABLES)


def test_a_changed_table_would_be_noticed() -> None:
    text = text_of("docs/configuration.md")
    assert "`UPSCALE_MAX_QUEUE` | `1000`" in text
    assert renewed(text.replace("`1000`", "`999`")) == text


def test_every_limit_has_its_unit() -> None:
    numbers = {name for name, field in Config.model_fields.items() if field.annotation in (int, float)} - {"port"}
    assert len(numbers) > 10
    assert [name for name in numbers if not unit(name)] == []


# --- links ----------------------------------------------------------------------------------------------------------


def links(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [each for each in re.findall(r"\]\(([^)\s]+)\)", text) if not each.startswith(("http://", "https://"))]


def anchors(path: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        assert ROOT in target.parents, f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), link


def test_every_document_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            found = ((path.parent / link.partition("#")[0]).resolve() for link in links(path))
            waiting += [target for target in found if target.suffix == ".md"]
    assert set(DOCUMENTS) <= reached


def test_every_file_among_the_documents_is_linked() -> None:
    linked = {(path.parent / link.partition("#")[0]).resolve() for path in DOCUMENTS for link in links(path)}
    files = {path for path in (ROOT / "docs").iterdir() if path.suffix == ".md" or IMAGES.search(path.name)}
    assert files <= linked


def test_the_table_of_documents_has_them_all() -> None:
    listed = text_of("README.md").partition("## Documents")[2]
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.name}" in listed


# --- the API --------------------------------------------------------------------------------------------------------


def test_every_route_of_our_own_api_is_explained() -> None:
    text = text_of("docs/api.md").partition("<!-- table: operations -->")[0]
    for label in {*OPERATIONS, *OWN_ROUTES}:
        assert f"`{label}`" in text or f"## {label}" in text, label


def test_every_dialect_is_in_the_table_of_routes() -> None:
    text = text_of("docs/api.md")
    for dialect in DIALECTS:
        for path, methods in document((dialect,))["paths"].items():
            for method in methods:
                assert f"| {dialect.NAME} | `{method.upper()} {path}` |" in text


def test_every_field_of_a_job_is_explained() -> None:
    text = text_of("docs/api.md").partition("## The other routes")[0]
    job: Any = OPERATIONS["GET /jobs/{job_id}"].answer
    result = job["properties"]["result"]["anyOf"][0]
    for name in (*job["properties"], *result["properties"]):
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_examples_of_our_own_api_bring_a_picture(
    live_server: LiveServer, picture: Picture, tmp_path: Path, language: str
) -> None:
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("there is no curl")
    found = re.search(rf"<!-- run: {language} -->\n```{language}\n(.*?)^```$", text_of("docs/api.md"), re.M | re.S)
    assert found is not None
    live = live_server(api_keys=("a-key-of-ours",))
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    code = found[1].replace("http://127.0.0.1:8000", live.url).replace("your-key", "a-key-of-ours")
    command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
    with live.worker.working():
        env = os.environ | {"NO_PROXY": "*"}
        run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    (big,) = tmp_path.glob("big.*")
    assert big.read_bytes()[:3] == (b"\xff\xd8\xff" if language == "sh" else b"\x89PN")


# --- commands -------------------------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Document, and the words after `python -m server` or what stands for it in a container."""
    starts = re.compile(r"(?:\S*python -m server|^upscale-server|run --rm(?: -v \S+)? upscale(?:-server)?) (.*)")
    for path in DOCUMENTS:
        for block in blocks(path.read_text("utf-8")):
            for line in block.splitlines():
                found = starts.search(line.partition(" # ")[0].partition("   #")[0])
                if found:
                    yield named(path), shlex.split(found[1].partition(" > ")[0])


def test_every_command_that_is_shown_is_taken_by_the_command_line() -> None:
    shown = list(command_lines())
    assert len(shown) > 20
    for path, words in shown:
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands") and not (words and words[0].startswith("--")):
            assert words and words[0] in command.list_commands(None), f"{path}: {words}"
            command = command.get_command(None, words.pop(0))
        known = {option for each in command.params for option in each.opts} | {"--help"}
        for word in words:
            if re.match("--?[a-z]", word):
                assert word.partition("=")[0] in known, f"{path}: {word}"


def test_weights_that_are_named_in_commands_are_known() -> None:
    manifest = read_manifest()
    pulled = [words[2:] for _, words in command_lines() if words[:2] == ["weights", "pull"]]
    assert pulled
    for names in pulled:
        manifest.select(names)


def test_every_target_of_make_that_is_shown_exists() -> None:
    makefile = text_of("Makefile")
    for path in DOCUMENTS:
        for block in blocks(path.read_text("utf-8")):
            for target in re.findall(r"^(?:\w+=\S+ )*make ([\w-]+)", block, re.MULTILINE):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{named(path)}: make {target}"


# --- figures --------------------------------------------------------------------------------------------------------


def figures(name: str) -> Any:
    return json.loads(text_of(f"benchmarks/{name}.json"))


def test_what_the_readme_says_of_quality_was_measured() -> None:
    clean = figures("quality")["clean"].values()
    gains = [each["fidelity-x4"]["psnr_y"] - each["bicubic"]["psnr_y"] for each in clean]
    assert f"{min(gains):.1f} to {max(gains):.1f} dB above bicubic" in " ".join(text_of("README.md").split())


def test_no_figure_stands_in_the_documents_of_quality_but_from_their_tables() -> None:
    text = re.sub(r"<!-- table: .*?<!-- end -->", "", text_of("docs/quality.md"), flags=re.DOTALL)
    said = set(re.findall(r"\b\d+\.\d+\b", text))
    assert said <= {"28.42", "0.8104"}, "figures belong into benchmarks/quality.json"
    bicubic = figures("quality")["clean"]["Set5"]["bicubic"]["psnr_y"]
    assert f"{bicubic:.2f}" == "28.42"  # as the literature says, and the document with it
