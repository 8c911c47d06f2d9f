"""What is written shall be there after a power cut, too, and be nobody's but our user's."""

import os
import secrets
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_private() -> None:
    """From now on, what this process writes is readable by its user alone, whatever the shell's umask was."""
    os.umask(0o077)


def make_private(path: Path) -> None:
    """The folder, if it is not there, for our user alone; those above it as the umask says."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a small file, so that readers see the old or the new one. Raises OSError."""
    partial = path.with_name(f".{secrets.token_hex(6)}.partial")
    partial.write_text(text, "utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)
