"""`service`: the server as a service of systemd."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import server
from server.cli.base import fail, plain_errors, stderr

app = typer.Typer(no_args_is_help=True, help="Run the server as a service of systemd.")

NAME = "upscale-server"
_ETC = Path("/etc")
_BOOTED = Path("/run/systemd/system")
"""This folder is there while systemd is the init of the machine."""

_UNIT = """\
# Written by `upscale-server service install`, which replaces it. Your own changes: {systemctl} edit {name}
[Unit]
Description=Image upscaling behind the APIs of hosted systems
{network}
[Service]
Type=exec
ExecStart={command}
EnvironmentFile=-{settings}
WorkingDirectory={folder}
{account}Restart=on-failure
RestartSec=5
# A worker that the kernel kills for its memory is replaced by the server itself.
OOMPolicy=continue
# Running jobs are finished or given back to the queue within 20 s.
TimeoutStopSec=40
KillMode=mixed
LimitNOFILE=65536
UMask=0077

{hardening}

[Install]
WantedBy={target}
"""

_NETWORK = """\
After=network-online.target
Wants=network-online.target
"""

_ACCOUNT = """\
User={name}
Group={name}
# /var/lib/{name} and /var/cache/{name} are all that it can write to.
StateDirectory={name}
StateDirectoryMode=0700
CacheDirectory={name}
CacheDirectoryMode=0700
Environment=UPSCALE_DATA_DIR=%S/{name} XDG_CACHE_HOME=%C
"""

_FOR_ALL = """\
# Memory that is both written and executed stays allowed: torch makes code while it runs.
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM"""

_FOR_SYSTEM = """
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateMounts=yes
# Of devices only GPUs, and what every program needs.
DevicePolicy=closed
DeviceAllow=char-nvidia* rw
DeviceAllow=/dev/dxg rw
DeviceAllow=/dev/nvmap rw
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes"""

_SETTINGS = """\
# Settings of upscale-server, one UPSCALE_NAME=value a line; docs/configuration.md has all of them.
# After a change: {systemctl} restart {name}
#UPSCALE_HOST=127.0.0.1
#UPSCALE_PORT=8000
"""

_SYSUSERS = 'u {name} - "Image upscaling" /var/lib/{name}\n'

ForUser = Annotated[
    bool | None, typer.Option("--user/--system", help="Of this user, or of the machine. Default: --system for root.")
]


@dataclass(frozen=True)
class _Places:
    user: bool
    unit: Path
    settings: Path
    sysusers: Path | None
    """Makes the account that the service runs under; a user's own service needs none."""

    @property
    def systemctl(self) -> list[str]:
        return ["systemctl", *(["--user"] if self.user else [])]


@app.command("install")
def service_install(
    user: ForUser = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the unit and change nothing.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it now and at every boot.")] = True,
) -> None:
    """Write a unit that runs `serve` with few rights, and a file for its settings; start it."""
    from server.files import write_atomically

    with plain_errors():
        places = _places(user)
        unit = _unit(places)
        if only_print:
            print(unit, end="")
            return
        for path, text, mode in _files(places, unit):
            write_atomically(path, text)
            path.chmod(mode)
            print(f"written: {path}")
        if not _BOOTED.exists():
            stderr.print("systemd does not run here, so nothing was started", highlight=False)
            return
        if places.sysusers is not None:
            _run("systemd-sysusers", str(places.sysusers))
        _run(*places.systemctl, "daemon-reload")
        if start:
            _run(*places.systemctl, "enable", NAME)
            _run(*places.systemctl, "restart", NAME)
    print(f"state and last log lines: {shlex.join([*places.systemctl, 'status', NAME])}")
    if places.user and start:
        print("to run it also while you are not logged in: loginctl enable-linger")


@app.command("uninstall")
def service_uninstall(user: ForUser = None) -> None:
    """Stop the service and remove its unit. Its settings, jobs and pictures stay."""
    with plain_errors():
        places = _places(user)
        if not places.unit.exists():
            fail(f"there is no {places.unit}")
        if _BOOTED.exists():
            _run(*places.systemctl, "disable", "--now", NAME)
        for path in filter(None, (places.unit, places.sysusers)):
            path.unlink(missing_ok=True)
            print(f"removed: {path}")
        if _BOOTED.exists():
            _run(*places.systemctl, "daemon-reload")
    print(f"kept: {places.settings} and the data folder")


def _places(user: bool | None) -> _Places:
    if shutil.which("systemctl") is None:
        fail("systemd is not installed here")
    if user or (user is None and os.geteuid() != 0):
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return _Places(True, home / "systemd" / "user" / f"{NAME}.service", home / NAME / "settings", None)
    if os.geteuid() != 0:
        fail("--system needs root: run it with sudo")
    return _Places(
        False,
        _ETC / "systemd" / "system" / f"{NAME}.service",
        _ETC / NAME / "settings",
        _ETC / "sysusers.d" / f"{NAME}.conf",
    )


def _files(places: _Places, unit: str) -> Iterator[tuple[Path, str, int]]:
    """Each with its text and mode. Settings that are there already stay."""
    if not places.settings.exists():
        yield places.settings, _SETTINGS.format(name=NAME, systemctl=shlex.join(places.systemctl)), 0o600
    if places.sysusers is not None:
        yield places.sysusers, _SYSUSERS.format(name=NAME), 0o644
    yield places.unit, unit, 0o644


def _unit(places: _Places) -> str:
    script = Path(sys.executable).with_name(NAME)
    network, account, folder, hardening = "", "", "%h", _FOR_ALL
    if not places.user:
        parts = [Path(each).resolve() for each in (sys.prefix, sys.base_prefix, Path(server.__file__).parent)]
        _refuse_if_private(parts)
        at_home = any(each.is_relative_to(home) for each in parts for home in ("/home", "/root", "/run/user"))
        network, account, folder = _NETWORK, _ACCOUNT.format(name=NAME), f"%S/{NAME}"
        hardening += _FOR_SYSTEM.format(home="read-only" if at_home else "yes")
    return _UNIT.format(
        name=NAME,
        systemctl=shlex.join(places.systemctl),
        network=network,
        command=" ".join(map(_quoted, [str(script), "serve"] if script.exists() else server.own_command("serve"))),
        settings=_escaped(str(places.settings)),
        folder=folder,
        account=account,
        hardening=hardening,
        target="default.target" if places.user else "multi-user.target",
    )


def _refuse_if_private(parts: list[Path]) -> None:
    """The service's account must be able to read the program."""
    for each in (folder for part in parts for folder in (part, *part.parents)):
        if not each.stat().st_mode & 0o001:
            fail(
                f"the service's account can't read {each}, where this program is: install it elsewhere, for example "
                f"into /opt/{NAME}, or use --user"
            )


def _quoted(word: str) -> str:
    """One word of a unit's command line, in which quotes, backslashes, $ and % have a meaning."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_escaped(word)}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        fail(f"{command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        fail(f"`{shlex.join(command)}` ended with code {error.returncode}")
