"""docs/troubleshooting.md is right: the server says what the page looks for."""

import ast
import re

from tests.paths import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
SYMPTOMS = re.findall(r"^\| (?!you see|---)(.*?) \|", TEXT, re.MULTILINE)
NOT_OURS = {"Address already in use", "attempt"}
"""The system's words; the name of a field."""


def said() -> str:
    """All texts of the server's code; of f-strings what is fixed."""
    found = []
    for path in (ROOT / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_each_message_of_the_page_is_one_of_the_servers() -> None:
    texts = said()
    messages = [each for symptom in SYMPTOMS for each in re.findall(r"`([^`/]+)`", symptom) if each not in NOT_OURS]
    assert len(SYMPTOMS) > 25 and len(messages) > 15
    assert [each for each in messages if each not in texts] == []
