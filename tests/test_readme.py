"""The README promises what the code has: every setting, every dialect, every file it points to."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from server.config import PREFIX, Config
from server.dialects import DIALECTS
from server.job import TARGET_LONG_EDGE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def settings_table() -> str:
    """What the README's table of settings must be; print it to renew it."""
    rows = []
    for name, field in Config.model_fields.items():
        default = field.default
        shown = (
            ""
            if default in (None, (), PydanticUndefined)
            else f"`{default:g}`"
            if isinstance(default, float)
            else f"`{default}`"
        )
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_every_setting_is_documented() -> None:
    assert settings_table() in README


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.NAME)
def test_every_dialect_is_documented(dialect: object) -> None:
    assert re.search(rf"^\| {getattr(dialect, 'NAME')}", README, re.MULTILINE | re.IGNORECASE)  # noqa: B009
    assert f"· {getattr(dialect, 'NAME')}" in README or f"dialects/  {getattr(dialect, 'NAME')}" in README  # noqa: B009


def test_every_link_and_path_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    paths = re.findall(r"`((?:server|tests|weights|benchmarks|training|demo)/[\w./]+)`", README)
    assert links and paths
    for path in (*links, *paths):
        assert (ROOT / path).exists(), path


def test_every_command_of_the_makefile_that_is_promised_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_targets_are_those_of_the_code() -> None:
    assert ", ".join(str(edge) for edge in TARGET_LONG_EDGE.values()) in README
