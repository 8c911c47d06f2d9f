"""Jobs through every API while the server's processes are killed:
`python -m tests.stress.chaos [--short] [--json FILE]`.

Clients send pictures, each of a colour of its own, through all dialects (REST, and Runware's WebSocket): inline, as
uploads, as addresses; some want webhooks. Meanwhile workers, the API process and the launcher that watches them get
SIGKILL at random; the launcher is started again by us, as a supervisor would. A client goes on as any client does: what
was not answered is asked again.

What is demanded in the end, else the exit status is 1:

* every job whose submit was answered ends, once: its state and result never change afterwards, the result is of the
  right size and colour, and its webhook was told;
* a job fails for one reason only, that its worker or fetcher was killed three times;
* no answer is a 5xx, nothing unexpected is logged, no process outlives its launcher by more than a few seconds;
* files that nobody's row names are there for one reason only, the kills, and a restart removes them once they are old.
"""

import argparse
import json
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.job.job import State
from tests.stress.audit import all_ended, clean_up, is_passing, read_books, strays, wait_until
from tests.stress.server_process import Launched, Process
from tests.stress.workload import Broken, Client, Outside, World, make_errands

CLIENTS = 8
ORPHAN_S = 10.0
"""How long a dead launcher's processes may take to notice, on a busy machine."""
HOOK_S = 90.0
"""How long after the last job's end a webhook may be told, whose first sender was killed."""
_EXPECTED = re.compile(r"died \d times")
"""The one reason for a job to fail."""
_NOT_OURS = ("process died", "job lost to another worker", "delivery failed", "the database failed; trying again")
"""Warnings that kills explain."""


def supervise(world: World) -> None:
    """Start the launcher whenever it is dead, at once, as a supervisor without patience."""
    while not world.over.wait(0.05):
        assert world.server.process is not None
        if world.server.process.poll() is not None:
            # The dead one's children may still have the port: then it ends by itself, and is started again.
            world.count("launcher started again")
            world.server.start()
            time.sleep(0.2)


def kill(world: World, kills: int, chance: random.Random, deadline: float) -> None:
    """Spread over the jobs, in turn with their ends, and then at a moment of chance."""
    roles = [("worker", "api", "serve")[number % 3] for number in range(kills)]
    chance.shuffle(roles)
    for number, role in enumerate(roles):
        world.wait_until_done(round(len(world.errands) * number / (kills + 1)), deadline)
        time.sleep(chance.choice((0.0, chance.uniform(0, 0.2), chance.uniform(0, 1.5))))
        while not (victims := [each for each in world.server.processes() if each.role == role]):
            if time.monotonic() > deadline:
                world.failures.append(f"no process to kill: {role}")
                return
            time.sleep(0.02)
        chance.shuffle(victims)
        family = world.server.processes()
        with suppress(ProcessLookupError):
            os.kill(victims[0].pid, signal.SIGKILL)
            world.count(f"killed {role}")
        if role == "serve":
            _watch_orphans(world, [each for each in family if each.role in ("api", "worker")])


def _watch_orphans(world: World, family: list[Process]) -> None:
    started = time.monotonic()
    while left := [each for each in family if world.server.alive(each)]:
        if time.monotonic() - started > ORPHAN_S:
            world.failures.append(f"{len(left)} processes outlived their launcher: {[each.role for each in left]}")
            return
        time.sleep(0.02)
    lasted = round((time.monotonic() - started) * 1000)
    world.counts["slowest to follow its launcher, ms"] = max(world.counts["slowest to follow its launcher, ms"], lasted)


def look_again(world: World) -> None:
    """Ends are for good. Asked by another client, once nobody is killed any more."""
    client = Client(world)
    for errand in world.errands:
        if errand.end is None:
            name = f"{errand.door.name} {errand.name}" if errand.name else f"{errand.door.name}, not accepted"
            world.failures.append(f"job {errand.number} ({name}) has not ended")
            continue
        try:
            now = client.look(errand)
        except Broken:
            world.failures.append(f"job {errand.number} can't be asked for")
            continue
        if (now.state, now.url) != (errand.end.state, errand.end.url):
            world.failures.append(f"job {errand.number} was {errand.end}, and is {now}")
        if errand.complaint:
            world.failures.append(f"job {errand.number} ({errand.door.name}): {errand.complaint}")
        if now.state == "failed" and not _EXPECTED.search(now.why):
            world.failures.append(f"job {errand.number} ({errand.door.name}) failed: {now.why}")


def _alarms(server: Launched) -> list[str]:
    """What was logged, and that kills don't explain."""
    found = Counter(
        event["event"]
        for event in server.events()
        if event.get("level") not in ("info", "debug") and event["event"] not in _NOT_OURS
    )
    return [f"{count} × {event}" for event, count in found.items() if "Address already in use" not in event]


def measure(folder: Path, number: int, kills: int, seed: int, limit_s: float) -> dict[str, Any]:
    """ModelInfo, with `failures` among them: empty if all is as demanded."""
    chance = random.Random(seed)
    errands = make_errands(number)
    outside = Outside([errand.picture for errand in errands])
    server = Launched(
        folder, UPSCALE_WORKERS="2", UPSCALE_LEASE_S="5", UPSCALE_ALLOW_HOSTS="127.0.0.1", OMP_NUM_THREADS="1"
    )
    world = World(server, outside, errands)
    threads = [threading.Thread(target=Client(world).run, name=f"client-{n}") for n in range(CLIENTS)]
    supervisor = threading.Thread(target=supervise, args=(world,), name="supervisor")
    with outside.running():
        try:
            server.start()
            server.wait_until_ready()
            started = time.monotonic()
            deadline = started + limit_s
            killer = threading.Thread(target=kill, args=(world, kills, chance, deadline), name="killer")
            for thread in (*threads, supervisor, killer):
                thread.start()
            killer.join()
            world.wait_until_done(number, deadline)
            seconds = time.monotonic() - started
            hooks = {errand.number for errand in errands if errand.hook and errand.name}
            wait_until(lambda: hooks <= set(outside.told), time.monotonic() + HOOK_S)
            # Submits whose answers were lost have made jobs that no client knows; they must end as well.
            wait_until(lambda: all_ended(server.data_dir), time.monotonic() + HOOK_S)
            world.over.set()
            for thread in (*threads, supervisor):
                thread.join()
            server.wait_until_ready()
            look_again(world)
            world.failures += [f"job {missing}: its webhook was not told" for missing in hooks - set(outside.told)]
            server.stop()
            world.failures += [f"a {each.role} process is left" for each in server.processes()]
            world.failures += _alarms(server)
            books = read_books(server.data_dir)
            left = strays(server, books)
            still = clean_up(server, left, time.monotonic() + 60)
            world.failures += [f"{path.relative_to(folder)} is never removed" for path in still]
            world.failures += books.broken + read_books(server.data_dir).broken
        finally:
            world.over.set()
            server.end()
    unended = sum(count for state, count in books.states.items() if not State(state).final)
    world.failures += [f"{unended} jobs have not ended"] if unended else []
    return {
        "jobs": number,
        "kills": kills,
        "seed": seed,
        "seconds": round(seconds, 1),
        "by_door": dict(Counter("runware websocket" if each.socket else each.door.name for each in errands)),
        "by_source": dict(Counter(each.source for each in errands)),
        "ends": dict(Counter(each.end.state if each.end else "none" for each in errands)),
        "rows": dict(books.states),
        "webhooks": {"wanted": len(hooks), "told": sum(outside.told.values())},
        "counts": dict(sorted(world.counts.items())),
        "strays": dict(Counter("staged or temporary" if is_passing(path) else "blob" for path in left)),
        "strays_never_removed": len(still),
        "failures": world.failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--short", action="store_true", help="48 jobs and 6 kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1800, help="seconds until it counts as failed")
    parser.add_argument("--folder", type=Path, help="kept, to be looked at; must not exist. Default: a temporary one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    jobs, kills = (48, 6) if args.short else (args.jobs, args.kills)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        facts = measure(args.folder or Path(folder), jobs, kills, args.seed, args.limit)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))
    raise SystemExit(1 if facts["failures"] else 0)


if __name__ == "__main__":
    main()
