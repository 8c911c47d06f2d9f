"""Dockerfile.cuda and deploy/compose.yaml, as far as can be told without an engine: linted, held against the schema of
Compose, and against what they refer to. docs/offline.md says what was run by hand."""

import ast
import fnmatch
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import PREFIX, Config
from server.engine import cuda
from server.kernels.cpu import build
from server.kernels.cuda import ahead
from tests.conftest import LiveServer
from tests.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile.cuda").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
SERVICE = COMPOSE["services"]["upscale"]
LAST_STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]


def tool(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


def test_the_dockerfile_is_clean() -> None:
    run = subprocess.run([tool("hadolint"), "Dockerfile.cuda"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


def test_the_compose_file_is_one_to_the_specification() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


def sent(path: str) -> bool:
    """Whether .dockerignore lets it into the build: the last line that matches it or a folder above decides."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    answer = True
    above = [path, *(str(each) for each in Path(path).parents)]
    for line in lines:
        pattern = line.removeprefix("!").removeprefix("**/")
        if (
            line
            and not line.startswith("#")
            and any(
                fnmatch.fnmatch(Path(each).name if line.removeprefix("!").startswith("**/") else each, pattern)
                for each in above
            )
        ):
            answer = line.startswith("!")
    return answer


def test_everything_that_is_copied_is_there_and_let_in() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    sources = [source for words in copied for source in words.split()[:-1]]
    assert {"server", "weights", "requirements.lock"} <= set(sources)
    for source in sources:
        path = ROOT / source
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        assert any(sent(str(each.relative_to(ROOT))) for each in files), source


def test_nothing_else_is_let_in() -> None:
    for path in ("tests/conftest.py", "training/run.py", ".git/config", ".venv/bin/python", "server/__pycache__/a.pyc"):
        assert not sent(path), path
    assert not sent("weights/official/RealESRGAN_x4plus.pth")
    assert all(
        sent(f"weights/{name}") for name in ("manifest.toml", "ATTRIBUTION.md", "bundled/fidelity-x4.safetensors")
    )


def test_the_kernels_come_compiled_for_every_processor_and_are_where_the_server_looks(tmp_path: Path) -> None:
    """What the stage copies is enough to compile them, by the command that it runs."""
    stage = DOCKERFILE[DOCKERFILE.index(" AS kernels") : DOCKERFILE.index(" AS code")]
    assert "g++" in stage and "server.kernels --all" in stage and "g++" not in LAST_STAGE
    for source, target in re.findall(r"^COPY (\S+) (\S+)$", stage, re.MULTILINE):
        assert source == target and not any(sent(str(each.relative_to(ROOT))) for each in [build.BUILT])
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, tmp_path / target)
    shutil.rmtree(tmp_path / "server" / "kernels" / "built", ignore_errors=True)
    run = [sys.executable, "-m", "server.kernels", "--help"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, timeout=120, check=False).returncode == 0
    # A context that its group can write to, as a checkout of many users is.
    (tmp_path / "server" / "kernels").chmod(0o775)
    with pytest.raises(build.Unusable, match="others can write"):
        build.refuse_if_others_can_write(tmp_path / "server" / "kernels" / "cpu")
    command = re.search(r"^RUN (chmod .*) && .*server\.kernels --all$", stage, re.MULTILINE)
    assert command is not None
    subprocess.run(command[1], cwd=tmp_path, shell=True, check=True)
    build.refuse_if_others_can_write(tmp_path / "server" / "kernels" / "cpu")
    built = build.BUILT.relative_to(ROOT)
    assert f"COPY --from=kernels /opt/upscale-server/{built} {built}" in DOCKERFILE


def test_triton_finds_a_compiler_and_a_place_that_it_may_write_to() -> None:
    assert re.search(r"install .* gcc libc6-dev libpython3-dev", LAST_STAGE)
    assert "TRITON_CACHE_DIR=/data/" in LAST_STAGE and 'VOLUME ["/data"]' in LAST_STAGE


def test_the_kernels_for_gpus_come_compiled_where_triton_looks_for_them_first() -> None:
    """By the command that tests/kernels/test_cuda_ahead.py runs, after the code is there and at its final place."""
    stage = DOCKERFILE[DOCKERFILE.index(" AS code") : DOCKERFILE.index(LAST_STAGE)]
    assert stage.index("COPY server server") < stage.index("-m server.engine.prebuild")
    assert "WORKDIR /opt/upscale-server\n" in stage
    assert "COPY --from=code /opt/upscale-server /opt/upscale-server\n" in LAST_STAGE
    manager = re.search(r"TRITON_CACHE_MANAGER=(\S+):(\S+)", LAST_STAGE)
    assert manager is not None
    assert getattr(importlib.import_module(manager[1]), manager[2]) is ahead.Cache
    assert ahead.BUILT.is_relative_to(ROOT / "server") and not sent(str(ahead.BUILT.relative_to(ROOT)))


def test_it_takes_every_driver_that_the_documents_name() -> None:
    """R580 is the first branch of CUDA 13. The base image alone would refuse all before that of its own version."""
    assert re.search(r"^FROM nvidia/cuda:13\.", DOCKERFILE, re.MULTILINE)
    assert 'NVIDIA_REQUIRE_CUDA="cuda>=13.0"' in LAST_STAGE
    assert "R580 or newer" in DOCKERFILE and "R580" in cuda.DRIVER


def test_its_settings_are_settings() -> None:
    known = {PREFIX + name.upper() for name in Config.model_fields}
    assert set(re.findall(rf"\b({PREFIX}\w+)=", DOCKERFILE)) <= known


def test_it_runs_as_no_one_in_particular_and_reads_no_hub() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", LAST_STAGE, re.MULTILINE)
    assert user is not None
    assert f"--uid {user[1]}" in LAST_STAGE and f"groupadd --gid {user[2]} " in LAST_STAGE
    assert "HF_HUB_OFFLINE=1" in LAST_STAGE


def test_it_installs_with_the_same_uv_as_the_makefile() -> None:
    version = re.search(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert version is not None and f"uv=={version[1]}" in DOCKERFILE


def test_all_that_it_installs_is_locked() -> None:
    """Each dependency of pyproject.toml has its line in the lock; the build checks it for theirs, too."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    wanted = ast.literal_eval(re.search(r"^dependencies = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()}
    for each in wanted:
        assert re.match(r"[\w-]+", each)[0].lower() in locked, each  # type: ignore[index]


LOCKS = ("requirements.lock", "tests/requirements.lock", "tests/old-clients.lock", "tests/new-clients.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_lock_names_a_registry(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    packages = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert packages
    for package in packages:
        head, *rest = package.rstrip().split(" \\\n    ")
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+!]+( ; .+)?", head), head
        assert rest and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in rest), head
    assert "://" not in text and "index" not in re.sub(r"[0-9a-f]{64}", "", text).split("==")[0]


def test_what_reads_the_lock_by_pattern_finds_what_it_wants() -> None:
    """The commands of the Makefile, the Dockerfile and docs/offline.md, on the lock as it is."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("Makefile", "Dockerfile.cuda", "docs/offline.md")]
    blocks = {each for text in texts for each in re.findall(r"awk '(/.*?wanted)' requirements\.lock", text)}
    assert len(blocks) == 3
    for program in blocks:
        found = subprocess.run(
            ["awk", program, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        heads = [line for line in found.stdout.splitlines() if line[0] != " "]
        hashes = [line for line in found.stdout.splitlines() if line[0] == " "]
        assert heads and len(hashes) >= len(heads)
        if "!" not in program:
            assert re.fullmatch(r"(setuptools|basicsr)==[\d.]+ \\", *heads)
    patterns = {
        each for text in texts for each in re.findall(r"grep (?:-o|--only-matching) '(.*?)' requirements\.lock", text)
    }
    assert len(patterns) == 2
    for pattern in patterns:
        found = subprocess.run(
            ["grep", "-o", pattern, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+!]+", line) for line in found.stdout.splitlines())


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1)])
def test_the_health_check_says_whether_a_worker_is_ready(live_server: LiveServer, ready: bool, code: int) -> None:
    live = live_server()
    live.worker.beat(ready=ready)
    found = re.search(r"HEALTHCHECK .*? CMD (\[.*?\])\n(?=ENTRYPOINT)", DOCKERFILE, re.DOTALL)
    assert found is not None
    command = json.loads(found[1].replace("\\\n", ""))
    assert command[0] == "python"
    env = os.environ | {"UPSCALE_PORT": live.url.rpartition(":")[2]}
    assert subprocess.run([sys.executable, *command[1:]], env=env, timeout=30, check=False).returncode == code


def test_compose_keeps_the_container_small() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICE["security_opt"]
    places = {each.rpartition(":")[2] for each in SERVICE["volumes"]}
    assert places == {"/data", "/data/weights"}  # all that is written to, with /tmp
    assert {each.partition(":")[0] for each in SERVICE["volumes"]} == set(COMPOSE["volumes"])
    for place in places:
        assert re.search(rf"install --directory --owner upscale .*{place}\b", LAST_STAGE)  # or a volume would be root's


def test_compose_asks_for_the_gpus_and_waits_for_running_jobs() -> None:
    (device,) = SERVICE["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    from server.launch import _GRACE_S

    assert int(SERVICE["stop_grace_period"].rstrip("s")) > _GRACE_S


def test_compose_takes_no_name_of_a_setting_for_itself() -> None:
    """In upscale.env such a name would stop the start."""
    text = (ROOT / "deploy" / "compose.yaml").read_text("utf-8")
    assert not re.findall(rf"\$\{{{PREFIX}", text)
