"""Previews of pictures, each made by a process of its own: the API process decodes no pictures itself."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import structlog

from server.config import PREFIX
from server.errors import BY_CODE, SourceUnreadable, UpscaleError
from server.images.preview import CPU_S
from server.service.turns import Turns

log = structlog.get_logger()

SIDES = (16, 2048)
"""Smallest and largest side of a preview, in pixels."""
_AT_A_TIME = 3
"""Processes; of them two at most for one caller."""
_WAIT_S = 60.0
_MODULE = "server.images.preview"


class Previews:
    def __init__(self, max_pixels: int) -> None:
        """Larger pictures have no preview."""
        self._max_pixels = max_pixels
        self._turns = Turns(_AT_A_TIME, wait_s=_WAIT_S)

    async def make(self, owner: str, read: Callable[[], bytes], side: int) -> bytes:
        """A WebP of the picture that `read` returns, no side longer than `side` (SIDES); callers take turns by
        `owner`. Raises SourceUnreadable, SourceTooLarge, Unavailable, and what `read` raises."""
        return await self._turns.run(owner, self._make, read, side)

    def close(self) -> None:
        self._turns.close()

    def _make(self, read: Callable[[], bytes], side: int) -> bytes:
        command = [sys.executable, "-m", _MODULE, str(side), str(self._max_pixels)]
        # One thread: the processors are for the workers.
        env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}  # none of its secrets
        env |= {"VIPS_CONCURRENCY": "1"}
        try:
            made = subprocess.run(command, input=read(), capture_output=True, timeout=2 * CPU_S, env=env, check=False)
        except subprocess.TimeoutExpired:
            raise SourceUnreadable("the picture takes too long to read for a preview") from None
        if made.returncode == 0:
            return made.stdout
        raise _refusal(made) if made.returncode == 1 else _broken(made)


def _refusal(made: "subprocess.CompletedProcess[bytes]") -> UpscaleError:
    try:
        said = json.loads(made.stderr)
        return BY_CODE[said["code"]](said["message"])
    except (ValueError, KeyError, TypeError):  # a traceback
        return _broken(made)


def _broken(made: "subprocess.CompletedProcess[bytes]") -> UpscaleError:
    log.warning("no preview", code=made.returncode, reason=made.stderr[-500:].decode("utf-8", "replace"))
    return SourceUnreadable("no preview of this picture could be made")
