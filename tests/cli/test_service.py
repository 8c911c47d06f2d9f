"""`service`: what it writes, as systemd's own programs read it. systemd itself is no service manager here, so its
`systemctl` is a script that notes how it was called."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import service
from tests.cli.outcome import Run, complaint


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /etc and of the user's configuration, on a machine where systemd does not run. The program is where
    every account can read it."""
    monkeypatch.setattr(service, "_ETC", tmp_path / "etc")
    monkeypatch.setattr(service, "_BOOTED", tmp_path / "booted")
    monkeypatch.setattr(service, "_refuse_if_private", lambda parts: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    tool(tmp_path, monkeypatch, "systemctl")
    tool(tmp_path, monkeypatch, "systemd-sysusers")
    return tmp_path / "etc"


def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (folder / "tools").mkdir(exist_ok=True)
    path = folder / "tools" / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n[ ! -e {folder}/fails ]\n')
    path.chmod(0o755)
    if str(path.parent) not in os.environ["PATH"]:
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def analyze(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    env = os.environ | {"XDG_RUNTIME_DIR": str(folder)}
    command = ["systemd-analyze", *(str(each) for each in arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["--system", "--user"])
def test_systemd_accepts_the_unit(run: Run, etc: Path, tmp_path: Path, option: str) -> None:
    unit = tmp_path / f"{service.NAME}.service"
    unit.write_text(run("service", "install", option, "--print").stdout)
    checked = analyze(option, "verify", unit, folder=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert not etc.exists(), "--print changes nothing"


def test_the_unit_has_few_rights(run: Run, etc: Path, tmp_path: Path) -> None:
    unit = tmp_path / f"{service.NAME}.service"
    unit.write_text(run("service", "install", "--system", "--print").stdout)
    said = analyze("security", "--offline=true", "--threshold=20", unit, folder=tmp_path).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None and float(found[1]) < 2, said


def test_install_writes_unit_account_and_settings(run: Run, etc: Path) -> None:
    done = run("service", "install")
    assert done.exit_code == 0 and done.stderr == "systemd does not run here, so nothing was started\n"
    unit = (etc / "systemd" / "system" / "upscale-server.service").read_text()
    script = Path(sys.executable).with_name("upscale-server")
    assert f'ExecStart="{script}" "serve"\n' in unit and f"EnvironmentFile=-{etc}/upscale-server/settings\n" in unit
    assert "User=upscale-server\n" in unit and (etc / "sysusers.d" / "upscale-server.conf").exists()
    settings = etc / "upscale-server" / "settings"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600, "it may hold keys"
    settings.write_text("UPSCALE_PORT=9000\n")
    run("service", "install")
    assert settings.read_text() == "UPSCALE_PORT=9000\n"


def test_a_users_own_service_needs_no_account(run: Run, etc: Path, tmp_path: Path) -> None:
    assert run("service", "install", "--user").exit_code == 0
    unit = (tmp_path / "config" / "systemd" / "user" / "upscale-server.service").read_text()
    assert "WantedBy=default.target\n" in unit and "User=" not in unit and "StateDirectory=" not in unit
    assert not etc.exists()


@pytest.mark.parametrize(("option", "systemctl"), [("--system", "systemctl"), ("--user", "systemctl --user")])
def test_systemd_is_told(run: Run, etc: Path, tmp_path: Path, option: str, systemctl: str) -> None:
    (tmp_path / "booted").mkdir()
    assert run("service", "install", option).exit_code == 0
    *before, load, enable, restart = (tmp_path / "calls").read_text().splitlines()
    assert before == ([f"systemd-sysusers {etc}/sysusers.d/upscale-server.conf"] if option == "--system" else [])
    assert [load, enable, restart] == [
        f"{systemctl} daemon-reload",
        f"{systemctl} enable upscale-server",
        f"{systemctl} restart upscale-server",
    ]
    (tmp_path / "calls").unlink()
    done = run("service", "uninstall", option)
    assert done.exit_code == 0 and done.stdout.splitlines()[-1].startswith("kept: ")
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{systemctl} disable --now upscale-server",
        f"{systemctl} daemon-reload",
    ]
    assert not list(tmp_path.rglob("*.service")) and list(tmp_path.rglob("settings"))
    assert complaint(run("service", "uninstall", option)).startswith("there is no ")


def test_a_command_that_fails_is_named(run: Run, etc: Path, tmp_path: Path) -> None:
    (tmp_path / "booted").mkdir()
    (tmp_path / "fails").touch()
    done = run("service", "install", "--user")
    assert done.exit_code == 1 and "`systemctl --user daemon-reload` ended with code 1" in done.stderr


def test_without_systemd_or_rights_it_says_so(run: Run, etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert complaint(run("service", "install", "--system")) == "--system needs root: run it with sudo"
    monkeypatch.setenv("PATH", "/nowhere")
    assert complaint(run("service", "install")) == "systemd is not installed here"


def test_a_program_that_the_account_cannot_read_is_not_installed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "home"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tool(tmp_path, monkeypatch, "systemctl")
    said = complaint(run("service", "install", "--system", "--print"))
    assert said.startswith("the service's account can't read ") and "/opt/upscale-server, or use --user" in said


def test_words_of_the_command_are_those_of_the_unit() -> None:
    assert service._quoted('/a b/50% "x" $y \\') == '"/a b/50%% \\"x\\" $$y \\\\"'
