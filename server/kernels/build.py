"""The library behind `server.kernels`: compiled on first use by the system's C++ compiler, kept in the user's cache.

A compiler is all it takes; where there is none, on another processor or in an unsafe folder, `library` says why not.
The file is named after its sources and flags, so a new version of either is a new file, and an old one is never taken
for it. It is written beside and moved into place: several processes may build at once.
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
from pathlib import Path

import platformdirs

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.cpp")))
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
_TIMEOUT_S = 120


class Unusable(Exception):
    """The library can't be had here; the text says why, for people."""


def library(folder: Path | None = None) -> tuple[Path, str]:
    """The file of the library, built if need be, and the name of its target. `folder`: instead of the user's cache.
    Raises Unusable."""
    target = _target()
    flags = (*_FLAGS, *TARGETS[target][1])
    sources = (*SOURCES, *sorted(Path(__file__).parent.glob("*.h")))
    parts = [*(path.read_bytes() for path in sources), *(flag.encode() for flag in flags)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = folder or platformdirs.user_cache_path("upscale-server")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()  # what is checked shall be what is loaded
        refuse_if_others_can_write(folder)
        path = folder / f"kernels-{digest}.so"
        if not path.exists():
            _build(path, flags)
        refuse_if_others_can_write(path)
    except OSError as error:
        raise Unusable(f"{error.filename or folder}: {error.strerror or error}") from error
    return path, target


def refuse_if_others_can_write(path: Path) -> None:
    """Whoever can write to a library, or to a folder above it, runs code as us. Raises Unusable."""
    path = path.resolve()
    for each in (path, *path.parents):
        facts = each.stat()
        shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder like /tmp, with the sticky bit, nobody can move away what is ours.
        if facts.st_uid not in (0, os.geteuid()) or (shared and not (each.is_dir() and facts.st_mode & stat.S_ISVTX)):
            raise Unusable(f"others can write to {each}")


@functools.cache
def _processor() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _target() -> str:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unusable("made for Linux on x86-64")
    for name, (needed, _) in TARGETS.items():
        if needed <= _processor():
            return name
    raise Unusable("the processor has neither AVX-512 nor AVX2 with FMA")


def _build(path: Path, flags: tuple[str, ...]) -> None:
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
        os.chmod(name, 0o700)
        os.replace(name, path)
    except subprocess.TimeoutExpired as error:
        raise Unusable(f"{compiler} took more than {_TIMEOUT_S} s") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
