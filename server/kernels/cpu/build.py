"""Builds the library behind `server.kernels`, or finds it.

`python -m server.kernels` builds it ahead: `make venv` into the user's cache, the image's build into `BUILT`, for every
kind of processor. Otherwise the system's C++ compiler makes it at the first use, and it is kept in the cache; a worker
does not wait for that (`server/worker/upscaler.py`). Without a compiler, on another kind of processor or in an unsafe
folder, `library` raises the reason.

The file is named after a hash of its sources and flags, so an old version is never loaded. It ends with a checksum of
itself, because a truncated file would kill the process that loads it (SIGBUS). It is written under another name and
then moved, because several processes may build at the same time.
"""

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

HERE = Path(__file__).parent
SOURCES = tuple(sorted(HERE.glob("*.cpp")))
BUILT = HERE / "built"
"""Libraries that come with the code. Tried first; the server never writes to it."""
COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-ffp-contract=fast", "-fno-math-errno")
TARGETS = {
    "AVX-512": (
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}),
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    ),
    "AVX2": (frozenset({"avx2", "fma"}), ("-mavx2", "-mfma")),
}
"""The required features of the processor, and the compiler's flags; the best first."""
Wanted = Literal["auto", "avx512", "avx2"]
_NAMES = {"avx512": "AVX-512", "avx2": "AVX2"}
_TIMEOUT_S = 120
_UNFINISHED = ".part"
_HASH = hashlib.sha256
_TAIL = b"sha256:%s\n"


class Unusable(Exception):
    """The library is not available here; the text says why."""


class NotCompiled(Unusable):
    """It would have to be compiled first."""


@dataclass(frozen=True)
class Library:
    path: Path
    target: str
    """Instruction set: a name of TARGETS."""
    origin: Literal["prebuilt", "compiled before", "compiled now"]
    """`prebuilt`: it came with the code. The others are in the cache."""


def library(folder: Path | None = None, wanted: Wanted = "auto", *, may_compile: bool = True) -> Library:
    """The library for this machine, built if needed. `folder`: instead of the user's cache. `wanted`: its instruction
    set; auto is the best that the processor has. Raises Unusable; NotCompiled instead of compiling if `may_compile` is
    false."""
    target = _target(wanted)
    came = BUILT / _file_name(target)
    if came.exists():
        # If others can change it, or if it is damaged, use the one in the cache.
        with contextlib.suppress(Unusable, OSError):
            refuse_if_others_can_write(came)
            if is_whole(came):
                return Library(came, target, "prebuilt")
    return build(target, folder or platformdirs.user_cache_path("upscale-server"), may_compile=may_compile)


def build(target: str, folder: Path, *, may_compile: bool = True) -> Library:
    """The library for a target, in this folder; compiled, unless an undamaged one is there. This machine need not be
    able to run it. Raises Unusable; NotCompiled instead of compiling if `may_compile` is false."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()  # so that the checked path is the loaded path
        refuse_if_others_can_write(folder)
        path = folder / _file_name(target)
        before = path.exists()
        if before:
            refuse_if_others_can_write(path)
            before = is_whole(path)
        if not before:
            compiler = _compiler()
            if not may_compile:
                raise NotCompiled("not compiled yet")
            _remove_leftovers(folder)
            _compile(path, compiler, _flags(target))
            refuse_if_others_can_write(path)
    except OSError as error:
        raise Unusable(f"{error.filename or folder}: {error.strerror or error}") from error
    return Library(path, target, "compiled before" if before else "compiled now")


def is_whole(path: Path) -> bool:
    """Whether the file ends with the checksum of its other bytes. Raises OSError."""
    data = path.read_bytes()
    size = len(data) - len(_tail(b""))
    return size > 0 and data[size:] == _tail(data[:size])


def refuse_if_others_can_write(path: Path) -> None:
    """Users who can write to a library, or to a folder above it, could run code as this user. Raises Unusable."""
    path = path.resolve()
    for each in (path, *path.parents):
        facts = each.stat()
        shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder with the sticky bit, like /tmp, others cannot move our files.
        if facts.st_uid not in (0, os.geteuid()) or (shared and not (each.is_dir() and facts.st_mode & stat.S_ISVTX)):
            raise Unusable(f"others can write to {each}")


def _tail(data: bytes) -> bytes:
    return _TAIL % _HASH(data).hexdigest().encode()


def _flags(target: str) -> tuple[str, ...]:
    return (*_FLAGS, *TARGETS[target][1])


def _file_name(target: str) -> str:
    sources = (*SOURCES, *sorted(HERE.glob("*.h")))
    parts = [*(path.read_bytes() for path in sources), *(flag.encode() for flag in _flags(target)), _TAIL]
    return f"kernels-{_HASH(b''.join(b'%d:' % len(part) + part for part in parts)).hexdigest()[:16]}.so"


@functools.cache
def _processor() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _target(wanted: Wanted) -> str:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unusable("made for Linux on x86-64")
    for name, (needed, _) in TARGETS.items():
        if needed <= _processor() and wanted in ("auto", *(key for key in _NAMES if _NAMES[key] == name)):
            return name
    if wanted == "auto":
        raise Unusable("the processor has neither AVX-512 nor AVX2 with FMA")
    missing = ", ".join(sorted(TARGETS[_NAMES[wanted]][0] - _processor()))
    raise Unusable(f"the processor lacks what {_NAMES[wanted]} needs ({missing})")


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise Unusable(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    return found


def _compile(path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=_UNFINISHED)
    os.close(handle)
    try:
        command = [compiler, *flags, *map(str, SOURCES), "-o", name]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False)
        if run.returncode:
            line = next((line for line in run.stderr.splitlines() if "error" in line), f"exit code {run.returncode}")
            raise Unusable(f"{compiler} failed: {line.strip()}")
        with open(name, "r+b") as file:
            file.write(_tail(file.read()))
            file.flush()
            os.fchmod(file.fileno(), 0o755)  # the image's is read by another user than its builder
            os.fsync(file.fileno())
        os.replace(name, path)
        _sync(path.parent)
    except subprocess.TimeoutExpired as error:
        raise Unusable(f"{compiler} took more than {_TIMEOUT_S} s") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _remove_leftovers(folder: Path) -> None:
    """Of processes that ended while they compiled."""
    for path in folder.glob(f"kernels-*{_UNFINISHED}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 2 * _TIMEOUT_S:
                path.unlink()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
