"""`keys` on the command line: output and exit codes."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.conftest import Live
from tests.system.test_outage import UNSHARE, can_mount

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run("list")`, with a data folder of its own that does not exist yet."""
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
        return httpx.get(f"{live.url}/jobs", headers={"Authorization": key}, trust_env=False, timeout=60).status_code

    assert status("any") == 200
    secret = run("create", "ann").stdout.strip()
    assert (status("any"), status(secret)) == (401, 200)
    run("revoke", "ann")
    assert status(secret) == 401


FULL = """
import os, subprocess, sys
data = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", data], check=True)
def run(*words):
    command = [sys.executable, "-m", "server", "keys", *words, "--data-dir", data]
    return subprocess.run(command, capture_output=True, text=True)
assert run("create", "first").returncode == 0
with open(os.path.join(data, "ballast"), "wb", buffering=0) as file:
    for size in (4096, 1):
        try:
            while file.write(bytes(size)):
                pass
        except OSError:
            pass
made = run("create", "ann")
listed = run("list")
print(repr([(each.returncode, each.stdout, each.stderr) for each in (made, listed)]))
"""


@pytest.mark.skipif(not can_mount(), reason="this kernel lets nobody mount a disk of memory in a namespace")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALE_")}
    command = [*UNSHARE, sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    for code, stdout, stderr in ast.literal_eval(done.stdout.splitlines()[-1]):
        assert (code, stdout) == (1, "")
        assert stderr.startswith("error: ") and stderr.count("\n") == 1 and "full" in stderr


def test_an_unusable_folder_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = run("create", "ann", "--data-dir", tmp_path / "file" / "data")
    assert made.exit_code == 1 and made.stderr.startswith("error: ") and made.stderr.count("\n") == 1


def test_a_list_that_is_no_terminals_is_as_wide_as_it_has_to_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "a name of some length for a key that somebody has"
    run("create", name, "--rate", "10/min")
    heads, row = run("list").stdout.rstrip().splitlines()
    assert name in row and "10/min" in row and heads.split()[-1] == "priority"
