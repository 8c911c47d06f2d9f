"""The networks' speed on this machine: measured once by a worker or the command line, stored in the cache folder.

Estimates use it, and on a CPU the choice of `auto`. It is not measured again at each start, so that other work on the
machine does not change which network a job uses. Needs no torch: the API half reads what the worker half has written.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from server.files import write_atomically

REFINER = "refiner"
"""The name of the diffusion pass, whose rate is pixels of the result × steps per second."""

RATES = "rates.json"
"""The file in the cache folder."""


def read_rates(cache: Path, machine: str | None = None) -> dict[str, float]:
    """Source pixels per second by network. Empty if nothing was measured, or on another `machine` (None: any)."""
    path = cache / RATES
    try:
        status = path.stat()
        of, rates = _read(path, status.st_ino, status.st_mtime_ns)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # missing, damaged, or of another version: it is only a cache
    return dict(rates) if machine in (None, of) else {}


@lru_cache(maxsize=8)
def _read(path: Path, *_version: int) -> tuple[str, Mapping[str, float]]:
    """The machine, and the rates. A file that has been replaced is of another version."""
    content = json.loads(path.read_text("utf-8"))
    return content["machine"], {str(name): float(rate) for name, rate in content["rates"].items() if float(rate) > 0}


def write_rates(cache: Path, machine: str, rates: Mapping[str, float]) -> None:
    """`machine`: a line that describes what the rates depend on. Raises OSError."""
    write_atomically(cache / RATES, json.dumps({"machine": machine, "rates": dict(rates)}, indent=2))
