"""The connection between a machine and its PostgreSQL, which can be cut without either end noticing."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_SOCKET = ".s.PGSQL.5432"


class Wire:
    """Passes bytes on. While it is `cut`, connections stay open, new ones are accepted, and nothing comes through."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._open = threading.Event()
        self._open.set()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        """What was sent meanwhile arrives now."""
        self._open.set()

    def serve(self, listener: socket.socket, stack: ExitStack) -> None:
        with suppress(OSError):  # closed
            while True:
                near = stack.enter_context(listener.accept()[0])
                far = stack.enter_context(socket.socket(socket.AF_UNIX))
                far.connect(str(self._target))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire_to(url: str, folder: Path) -> Iterator[tuple[Wire, str]]:
    """A wire to the PostgreSQL at this URL, which has a socket in a folder, and the URL by which machines use it."""
    host = Path(url.split("host=")[1])
    wire = Wire(host / _SOCKET)
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / _SOCKET))
        listener.listen()
        threading.Thread(target=wire.serve, args=[listener, stack], daemon=True).start()
        try:
            yield wire, url.replace(str(host), str(folder))
        finally:
            wire.mend()
            listener.shutdown(socket.SHUT_RDWR)
