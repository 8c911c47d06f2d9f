"""The library behind `server.kernels`: where its file comes from.

`python -m server.kernels` makes it ahead: `make venv` into the user's cache, the image's build into `BUILT`, for every
kind of processor. What was not made ahead is compiled on first use by the system's C++ compiler, and kept in the cache.
Where there is no compiler, on another processor or in an unsafe folder, `library` says why not.

The file is named after its sources and flags, so a new version of either is a new file, and an old one is never taken
for it. It ends with a checksum of itself: one that was cut short would kill the process (SIGBUS) that loads it. It is
written beside and moved into place: several processes may build at once.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

HERE = Path(__file__).parent
SOURCES = tuple(sorted(HERE.glob("*.cpp")))
BUILT = HERE / "built"
"""Libraries that came with the code. Looked at first, never written to by a server."""
COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-ffp-contract=fast", "-fno-math-errno")
TARGETS = {
    "AVX-512": (
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}),
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    ),
    "AVX2": (frozenset({"avx2", "fma"}), ("-mavx2", "-mfma")),
}
"""What the processor must have, and what the compiler is told, best first."""
Wanted = Literal["auto", "avx512", "avx2"]
_NAMES = {"avx512": "AVX-512", "avx2": "AVX2"}
_TIMEOUT_S = 120
_HASH = hashlib.sha256
_TAIL = b"sha256:%s\n"


class Unusable(Exception):
    """The library can't be had here; the text says why, for people."""


@dataclass(frozen=True)
class Library:
    path: Path
    target: str
    """Instruction set: a name of TARGETS."""
    origin: Literal["prebuilt", "compiled before", "compiled now"]
    """`prebuilt`: it came with the code. The others lie in the cache."""


def library(folder: Path | None = None, wanted: Wanted = "auto") -> Library:
    """The library for this machine, built if need be. `folder`: instead of the user's cache. `wanted`: its instruction
    set; auto is the best that the processor has. Raises Unusable."""
    target = _target(wanted)
    came = BUILT / _file_name(target)
    if came.exists():
        # Where others could have changed it, or something has, ours in the cache will do.
        with contextlib.suppress(Unusable, OSError):
            refuse_if_others_can_write(came)
            if is_whole(came):
                return Library(came, target, "prebuilt")
    return build(target, folder or platformdirs.user_cache_path("upscale-server"))


def build(target: str, folder: Path) -> Library:
    """The library for a target, in this folder; compiled, unless it lies there whole. This machine need not be one that
    can run it. Raises Unusable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()  # what is checked shall be what is loaded
        refuse_if_others_can_write(folder)
        path = folder / _file_name(target)
        before = path.exists()
        if before:
            refuse_if_others_can_write(path)
            before = is_whole(path)
        if not before:
            _compile(path, _flags(target))
            refuse_if_others_can_write(path)
    except OSError as error:
        raise Unusable(f"{error.filename or folder}: {error.strerror or error}") from error
    return Library(path, target, "compiled before" if before else "compiled now")


def is_whole(path: Path) -> bool:
    """Whether the file ends with the checksum of what stands before it. Raises OSError."""
    data = path.read_bytes()
    size = len(data) - len(_tail(b""))
    return size > 0 and data[size:] == _tail(data[:size])


def refuse_if_others_can_write(path: Path) -> None:
    """Whoever can write to a library, or to a folder above it, runs code as us. Raises Unusable."""
    path = path.resolve()
    for each in (path, *path.parents):
        facts = each.stat()
        shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder like /tmp, with the sticky bit, nobody can move away what is ours.
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


def _compile(path: Path, flags: tuple[str, ...]) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise Unusable(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
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


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
