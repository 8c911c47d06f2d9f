"""How commands begin: what they import, the version, completion."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server import __version__
from tests.cli.outcome import Run, imported
from tests.paths import ROOT

NETWORKS = {"torch", "torchvision", "cv2", "numpy", "pyvips", "basicsr"}
WEB = {"fastapi", "starlette", "uvicorn", "httpx"}
DATABASE = {"sqlalchemy", "alembic"}
SLOW = {"pydantic_settings"}
"""An installed package may bring it; it takes as long as the rest of a short command."""


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (("--help",), NETWORKS | WEB | DATABASE | {"structlog"}),
        (("--version",), NETWORKS | WEB | DATABASE | {"structlog"}),
        (("upscale", "--help"), NETWORKS | WEB | DATABASE | {"structlog"}),
        (("weights", "list"), NETWORKS | WEB | DATABASE | SLOW | {"asyncio"}),
        (("weights", "list"), {"server.cli.upscale", "server.cli.options"}),
        (("jobs", "list"), NETWORKS | WEB | SLOW | {"structlog", "server.cli.upscale"}),
        (("keys", "list"), NETWORKS | WEB | SLOW | {"structlog", "server.cli.jobs"}),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_a_command_imports_only_what_it_needs(tmp_path: Path, arguments: tuple[str, ...], forbidden: set[str]) -> None:
    found = imported(*arguments, folder=tmp_path)
    assert "typer" in found and not found & forbidden


def test_with_a_database_that_is_up_to_date_alembic_is_not_imported(tmp_path: Path) -> None:
    assert "alembic" in imported("keys", "create", "one", folder=tmp_path)
    for arguments in (("keys", "list"), ("jobs", "list")):
        found = imported(*arguments, folder=tmp_path)
        assert "sqlalchemy" in found and "alembic" not in found


@pytest.mark.parametrize(
    ("arguments", "collects"),
    [
        (("jobs", "--help"), "False"),
        (("keys", "list"), "False"),
        (("doctor", "--help"), "True"),
        (("worker", "--help"), "True"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_only_commands_that_end_soon_do_not_collect_garbage(
    tmp_path: Path, arguments: tuple[str, ...], collects: str
) -> None:
    code = f"import gc, sys; sys.argv[1:] = {arguments!r}\nfrom server.cli import main\ntry:\n    main()\nfinally:\n"
    code += "    print(gc.isenabled(), file=sys.stderr)"
    env = os.environ | {"UPSCALE_DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == collects


def test_missing_files_are_told_before_networks_are_loaded(tmp_path: Path) -> None:
    assert not imported("upscale", "missing.png", "-o", "out.png", folder=tmp_path) & NETWORKS


def test_a_dry_run_loads_no_networks(tmp_path: Path, photo: Path) -> None:
    found = imported("upscale", photo, "-o", "out.png", "--dry-run", folder=tmp_path)
    assert "pyvips" in found and "torch" not in found


def test_the_version(run: Run) -> None:
    assert run("--version").stdout == f"upscale-server {__version__}\n"


# --- completion: the installed command, as a shell calls it -----------------------------------------------------------

CODE = "import sys; sys.argv[0] = 'upscale-server'; from server.cli import main; main()"


def asked(shell: str, words: str, **env: str) -> list[str]:
    """What `upscale-server` answers to a shell that completes the last of these words."""
    asking = {
        "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": words},
        "fish": {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | asking | {"_UPSCALE_SERVER_COMPLETE": f"complete_{shell}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_commands_options_and_values(shell: str) -> None:
    assert any("upscale" in line for line in asked(shell, "upscale-server ups"))
    assert any("--skip-existing" in line for line in asked(shell, "upscale-server upscale --skip"))
    models = " ".join(asked(shell, "upscale-server upscale --model RealESRGAN_x4plus_"))
    assert "RealESRGAN_x4plus_anime_6B" in models and "fidelity" not in models


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    env = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, "--show-completion", shell]
    script = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert f"complete_{shell}" in script and "upscale-server" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    command = tmp_path / "upscale-server"
    command.write_text(f"#!{sys.executable}\nimport sys; sys.path.insert(0, {json.dumps(str(ROOT))})\n{CODE}\n")
    command.chmod(0o700)
    script = (
        "source <(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 upscale-server --show-completion bash)\n"
        "COMP_WORDS=(upscale-server upscale --tar); COMP_CWORD=2\n"
        "$(complete -p upscale-server | sed 's/.*-F \\([^ ]*\\).*/\\1/') upscale-server\n"
        'echo "${COMPREPLY[@]}"'
    )
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--target"], done.stderr
