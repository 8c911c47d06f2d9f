"""Files written atomically (a reader sees all of the file or nothing), durably, and readable by this user only."""

import errno
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_CLEAR_LINE, _SHOW_CURSOR = b"\r\x1b[2K", b"\x1b[?25h"
"""Progress bars hide the cursor."""

_unfinished: dict[Path, list[Path]] = {}
"""The partial files of this process, each with the folders that were made for it, the innermost last."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A partial file to write to, which becomes `path` when the block ends without an exception. Folders are made as
    needed. After an exception the partial file and these folders are removed. Raises OSError, at once if `path` is a
    folder, a device or a pipe, or its name is too long."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()  # raises for a name that is too long, before any work is done
    if path.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(path))
    if path.exists() and not path.is_file():  # a file in its place would end the device's or the pipe's use by others
        raise OSError(errno.EINVAL, "the result can't replace a device or a pipe", str(path))
    # A short name, so that it fits wherever the final name fits.
    partial = path.parent / f".{secrets.token_hex(6)}.partial"
    folders = [each for each in (path.parent, *path.parent.parents) if not each.exists()][::-1]
    _unfinished[partial] = folders
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    finally:
        _unfinished.pop(partial)
        _remove(partial, folders)


@contextmanager
def scratch_file(folder: Path) -> Iterator[Path]:
    """A path in `folder` for a file that is removed when the block ends, or when a signal ends the process. Raises
    OSError."""
    path = folder / f".{secrets.token_hex(6)}.partial"
    _unfinished[path] = []
    try:
        yield path
    finally:
        _unfinished.pop(path)
        _remove(path, [])


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file, atomically and durably. Raises OSError."""
    with atomic_file(path) as partial:
        partial.write_text(text, "utf-8")
        fsync(partial)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk and survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_private_umask() -> None:
    """From now on only this user can read what the process writes, whatever the shell's umask was."""
    os.umask(0o077)


def make_private_folder(path: Path) -> None:
    """Make the folder, if it is missing, readable by this user only; the folders above it by the umask."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def partial_files_removed_on_signals(last_words: Callable[[], str] | None = None) -> Iterator[None]:
    """In this block SIGTERM and SIGHUP end the process as they always do, but all partial files are removed before.
    With `last_words` SIGINT (Ctrl-C) ends it in the same way, and this text is written to standard error.

    NOTE: a thread waits for the signals. Python runs a signal handler only when the main thread returns from a
    library's function, which can take as long as encoding takes, and an exception raised within a library's callback
    would be lost.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # A signal that is ignored, as under nohup, stays ignored.
    wanted = _SIGNALS if last_words is None else [*_SIGNALS, signal.SIGINT]
    caught = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _pass) for number in caught}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_end_on, args=(reading, set(caught), last_words), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        thread.join()


def _pass(*_: object) -> None:
    """A handler that does nothing: the signal's number is written to the pipe, which the thread reads."""


def _end_on(reading: int, numbers: set[int], last_words: Callable[[], str] | None) -> None:
    while received := os.read(reading, 1):
        if received[0] in numbers:
            # Before the files are removed: the main thread goes on, and would report that its file is gone.
            words = last_words() if received[0] == signal.SIGINT and last_words is not None else None
            for partial, folders in list(_unfinished.items()):
                _remove(partial, folders)
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, _CLEAR_LINE + _SHOW_CURSOR)
            if words is not None:
                os.write(2, f"{words}\n".encode("utf-8", "backslashreplace"))
            os._exit(128 + received[0])
    os.close(reading)


def _remove(partial: Path, folders: list[Path]) -> None:
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    for folder in reversed(folders):
        with suppress(OSError):  # not empty
            folder.rmdir()
