"""How fast the networks are on this machine: measured once by a worker or the command line, kept in the cache folder.

Estimates rest on it, and on a CPU the choice of the network that `auto` takes. It is measured with few repetitions and
kept, not measured anew at each start, so that a busy day does not change what a job runs. No torch in here: the API
half reads what the worker half has written.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from server.files import write_atomically

REFINER = "refiner"
"""The name under which the diffusion pass stands: pixels of the result times steps, a second."""

_FILE = "rates.json"


def read_rates(cache: Path, machine: str | None = None) -> dict[str, float]:
    """Source pixels a second by network. Empty when nothing was measured, or on another `machine` (None: any)."""
    try:
        content = json.loads((cache / _FILE).read_text("utf-8"))
        if machine not in (None, content["machine"]):
            return {}
        return {str(name): float(rate) for name, rate in content["rates"].items() if float(rate) > 0}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # none, damaged, or another version's: it is only a cache


def write_rates(cache: Path, machine: str, rates: Mapping[str, float]) -> None:
    """`machine`: what the rates depend on, in one line. Raises OSError."""
    write_atomically(cache / _FILE, json.dumps({"machine": machine, "rates": dict(rates)}, indent=2))
