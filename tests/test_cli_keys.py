"""`keys` on the command line: what it prints, and how it ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.conftest import Live

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run("list")`, with a data folder of its own that is not there yet."""
    for name in [name for name in os.environ if name.startswith("UPSCALE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UPSCALE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, ["keys", *(str(each) for each in arguments)])


def listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json").stdout)
    return found


def test_a_key_is_all_that_standard_output_gets(run: Run) -> None:
    made = run("create", "ann")
    assert made.exit_code == 0
    assert made.stdout.startswith("up_") and made.stdout.count("\n") == 1
    assert "can't be shown again" in made.stderr
    secret = made.stdout.strip()
    assert secret not in run("list").stdout + run("list", "--json").stdout


def test_keys_are_listed_with_their_limits(run: Run) -> None:
    options = ("--rate", "10/min", "--daily", 500, "--concurrent", 3, "--priority", -2)
    first = run("create", "ann [dev]", *options).stdout.strip()
    run("create", "bob")
    (ann, bob) = listed(run)
    assert ann["limits"] == {"rate": 10, "daily": 500, "concurrent": 3, "priority": -2}
    assert bob["limits"] == {"rate": None, "daily": None, "concurrent": None, "priority": 0}
    assert (ann["name"], ann["revoked_at"], ann["today"]) == ("ann [dev]", None, 0)
    assert first.startswith(ann["prefix"]) and "hash" not in ann
    heads, row, *_ = run("list").stdout.splitlines()
    assert heads.split()[:2] == ["begins", "name"]
    assert all(word in row for word in (ann["prefix"], "ann [dev]", "10/min", "0 of 500", "3", "-2"))


def test_a_key_is_revoked_by_its_name_or_how_it_begins(run: Run) -> None:
    run("create", "ann")
    run("create", "bob")
    ann, bob = listed(run)
    assert run("revoke", "ann").stdout == f"revoked {ann['prefix']}… (ann)\n"
    assert run("revoke", bob["prefix"]).exit_code == 0
    assert all(key["revoked_at"] for key in listed(run))
    again = run("revoke", "ann")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "there is no key ann that could be revoked" in " ".join(again.stderr.split())


def test_a_name_that_is_taken_is_one_clear_line(run: Run) -> None:
    run("create", "ann")
    again = run("create", "ann")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "there is a key of the name ann already" in " ".join(again.stderr.split())


@pytest.mark.parametrize(
    "options",
    [
        ("--rate", "10"),
        ("--rate", "0/min"),
        ("--rate", "10/s"),
        ("--daily", "-1"),
        ("--concurrent", "0"),
        ("--priority", "5000"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(run: Run, options: tuple[str, str]) -> None:
    refused = run("create", "ann", *options)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert options[0] in refused.stderr
    assert listed(run) == []


def test_a_running_server_notices_at_once(run: Run, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_DATA_DIR", str(live.config.data_dir))

    def status(key: str) -> int:
        return httpx.get(f"{live.url}/jobs", headers={"Authorization": key}, trust_env=False).status_code

    assert status("any") == 200
    secret = run("create", "ann").stdout.strip()
    assert (status("any"), status(secret)) == (401, 200)
    run("revoke", "ann")
    assert status(secret) == 401
