"""Damaged requests and picture files: `python -m tests.stress.fuzz [--requests N] [--pictures N] [--json FILE]`.

* N requests per dialect, and N frames over Runware's WebSocket, made of valid ones by `mutate.py`, go to a real server
  with a real worker. Demanded: no 5xx but the documented 503 of a network that is not installed, every error in its
  dialect's own form, an answer within SLOW_S, nothing unexpected logged, no process dead, memory flat.
* N damaged files of eight kinds are read as the API half does (the header) and as a worker does (decode, save), in a
  process that may crash; some also go through the server. Demanded: a result or a refusal in words, no crash, no hang,
  memory flat.

The seed makes it repeatable, but for the ids of jobs. Exit status 1 when something is not as demanded.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.stress.fuzz_files import MAX_PIXELS, WARM, damaged_files, digest_all, picture_files, send_files
from tests.stress.fuzz_requests import Tally, send_all, send_frames, valid_requests
from tests.stress.server_process import Launched, Process, memory_mib

MOST_GROWTH = 0.10
"""Of resident memory, between the first fifth of the requests, or files, and the last one."""
SOCKET = "runware websocket"
ROUNDS = ("native", "wavespeed", "vibedream", "novita", "replicate", "webui", "mcp", "runware", SOCKET)
_SETTINGS = {
    "UPSCALE_SYNC_WAIT_S": "0.05",
    "UPSCALE_FETCH_TIMEOUT_S": "2",
    "UPSCALE_MAX_QUEUE": "60",
    "UPSCALE_MAX_SOURCE_PIXELS": str(MAX_PIXELS),
    "UPSCALE_MAX_RESULT_PIXELS": "400000",
    "UPSCALE_MAX_SOURCE_BYTES": str(1 << 20),
    "OMP_NUM_THREADS": "1",
}


def _memory(server: Launched) -> dict[str, float]:
    return {each.role: memory_mib(each.pid) for each in server.processes()}


def _lost(server: Launched, family: Sequence[Process]) -> list[str]:
    # A worker is replaced after some thousand jobs.
    replaced = (
        {"worker"} if any(each.get("event") == "the process will be replaced" for each in server.events()) else ()
    )
    return [f"the {each.role} process died" for each in family if not server.alive(each) and each.role not in replaced]


def _alarms(server: Launched) -> list[str]:
    """Errors in the log. Refusals are no errors."""
    told = [event for event in server.events() if event.get("level") not in ("info", "debug", "warning")]
    return [f"logged: {json.dumps(event)[:1500]}" for event in told]


def fuzz_server(folder: Path, requests: int, files: Sequence[bytes], seed: int) -> dict[str, Any]:
    """`files` are damaged already."""
    server = Launched(folder, **_SETTINGS)
    try:
        server.start()
        server.wait_until_ready()
        family = server.processes()
        tallies: dict[str, Tally] = {}
        memory = {}
        for part, number in (("warm", requests // WARM), ("rest", requests - requests // WARM)):
            for name in ROUNDS:
                # Each with jobs of its own: earlier ones have been cancelled or deleted, as some requests ask.
                seeds = valid_requests(server.address)[name.split()[0]]
                if name == SOCKET:
                    tally = send_frames(server.address, seeds, number, f"{seed} {name} {part}")
                else:
                    tally = send_all(server.port, seeds, number, f"{seed} {name} {part}")
                whole = tallies.setdefault(name, Tally())
                whole.statuses.update(tally.statuses)
                whole.complaints += tally.complaints
                whole.seconds += tally.seconds
                memory[f"{name}, {part}"] = _memory(server)
                print(name, part, dict(tally.statuses), memory[f"{name}, {part}"], flush=True)
        sent = send_files(server.address, iter(files))
        after = _memory(server)
        failures = _lost(server, family)
        server.stop()
        failures += _alarms(server)
    finally:
        server.end()
    failures += [f"{name}: {each}" for name, tally in tallies.items() for each in tally.complaints]
    failures += [f"end to end: {each}" for each in sent["complaints"]]
    return {
        "requests": {name: tally.to_dict() for name, tally in tallies.items()},
        "end_to_end": sent,
        "memory_mib": memory | {"at the end": after},
        "failures": failures,
    }


def grown(before: float, after: float, what: str) -> list[str]:
    if after > before * (1 + MOST_GROWTH):
        return [f"memory of {what} grew from {before} to {after} MiB"]
    return []


def measure(folder: Path, requests: int, pictures: int, seed: int, extra: Path | None = None) -> dict[str, Any]:
    seeds = picture_files(extra)
    digested = digest_all(damaged_files(seeds, pictures, f"{seed} files"), folder / "kept").to_dict()
    print(json.dumps(digested, indent=1))
    sent = list(damaged_files(seeds, pictures // 10, f"{seed} sent"))
    facts = fuzz_server(folder, requests, sent, seed)
    failures = facts.pop("failures") + [f"files: {each}" for each in digested["complaints"]]
    if digested["memory_mib"]:
        memory = digested["memory_mib"]
        failures += grown(memory["before"], memory["after"], "the process that reads files")
    first, last = facts["memory_mib"][f"{SOCKET}, warm"], facts["memory_mib"]["at the end"]
    for role in ("api", "worker"):
        failures += grown(first.get(role, 0.0), last.get(role, 0.0), role)
    return {"seed": seed, "seed_files": len(seeds), "files": digested, **facts, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="per dialect")
    parser.add_argument("--pictures", type=int, default=2_000, help="and a tenth of it through the server")
    parser.add_argument("--more", type=Path, help="a folder of picture files to damage, beside our own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept, to be looked at; must not exist. Default: a temporary one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        facts = measure(args.folder or Path(folder), args.requests, args.pictures, args.seed, args.more)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts["failures"], indent=1))
    raise SystemExit(1 if facts["failures"] else 0)


if __name__ == "__main__":
    main()
