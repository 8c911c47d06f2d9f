"""Files that appear whole or not at all: what is written beside them meanwhile does not stay, however the process ends,
short of SIGKILL."""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SHOW_CURSOR = b"\x1b[?25h"
"""Progress bars hide it."""

_unfinished: dict[Path, list[Path]] = {}
"""Files being written, each with the folders that were made for it, the innermost last."""


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file to write to that becomes `path` when the block ends well. Folders are made as needed, and go again when
    it does not. Raises OSError, at once where `path` can't be."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()  # a name that is too long is noticed now, and not after all the work
    if path.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(path))
    # Short, so that it fits wherever the name itself fits.
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
def removed_when_ended() -> Iterator[None]:
    """While inside, SIGTERM and SIGHUP end the process as they always do, but remove what is unfinished before.

    NOTE: a thread waits for them. A handler of Python's would only run when the main thread comes back from a library,
    which takes as long as encoding does, and what it raised within a library's callback would be lost.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # What is ignored, as under nohup, stays so.
    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _pass) for number in caught}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_end_on, args=(reading, set(caught)), name="signals", daemon=True)
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
    """The thread hears of it too."""


def _end_on(reading: int, numbers: set[int]) -> None:
    while received := os.read(reading, 1):
        if received[0] in numbers:
            for partial, folders in list(_unfinished.items()):
                _remove(partial, folders)
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + received[0])
    os.close(reading)


def _remove(partial: Path, folders: list[Path]) -> None:
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    for folder in reversed(folders):
        with suppress(OSError):  # there is something in it by now
            folder.rmdir()
