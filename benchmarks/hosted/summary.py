"""What was measured, as JSON: every job, and for every service its medians, percentiles, cost and errors.

p50 and p95 are of all jobs one by one that gave a result, linearly between the nearest; of fewer than twenty jobs p95
is close to the slowest. Throughput is the median of the rounds, of jobs that gave a result. Cost per picture comes from
the first of these that there is: the user (`given`), the answers (`reported`), the service's own price endpoint
(`quoted`), the list (`listed`).
"""

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.hosted.line import Done, Entry
from benchmarks.hosted.race import Burst, Run
from benchmarks.hosted.vendors.base import JSON

STAGES = ("upload", "submit", "wait", "download")
Scores = dict[tuple[str, str], dict[str, float | None]]
"""Of (label, picture)."""
Facts = dict[tuple[str, str], JSON]
"""As Results.facts."""
Quotes = dict[str, float]


def summarise(
    entries: list[Entry], runs: list[Run], bursts: list[Burst], scores: Scores, facts: Facts, quotes: Quotes
) -> list[JSON]:
    """One object for each service, in their order."""
    names = list(dict.fromkeys(run.picture for run in runs))
    return [_of(names, entry, runs, bursts, scores, facts, quotes) for entry in entries]


def _of(
    names: list[str], entry: Entry, runs: list[Run], bursts: list[Burst], scores: Scores, facts: Facts, quotes: Quotes
) -> JSON:
    label = entry.label
    mine = [run for run in runs if run.label == label]
    good = [run.done for run in mine if not run.done.error]
    burst = [each for each in bursts if each.label == label]
    everything = [run.done for run in mine] + [run.done for each in burst for run in each.runs]
    totals = [done.total_s for done in good]
    return {
        "label": label,
        "vendor": entry.vendor.name,
        "base_url": entry.base_url,
        "sent": entry.way,
        "jobs": len(everything),
        "latency": {
            "jobs": len(mine),
            "results": len(good),
            "p50_s": _percentile(totals, 50),
            "p95_s": _percentile(totals, 95),
            "slowest_s": max(totals, default=None),
            "stages_s": {name: _percentile([done.seconds.get(name, 0.0) for done in good], 50) for name in STAGES},
        },
        "throughput": _throughput(burst),
        "cost": cost_of(entry, everything, quotes),
        "errors": errors(everything),
        "retries": sum(done.retries for done in everything),
        "timeouts": sum(done.kind == "timeout" for done in everything),
        "quality": _means(scores[key] for key in scores if key[0] == label),
        "pictures": [
            {
                "name": name,
                "p50_s": _percentile([run.done.total_s for run in mine if run.picture == name and not run.done.error]),
                **facts.get((label, name), {}),
                **scores.get((label, name), {}),
            }
            for name in names
        ],
    }


def cost_of(entry: Entry, done: list[Done], quotes: Quotes) -> JSON:
    """USD per picture, and where that comes from."""
    told = [each.cost for each in done if each.cost is not None and not each.error]
    # The list is the vendor's: it says nothing about other addresses.
    listed = entry.vendor.price if entry.base_url == entry.vendor.base_url else None
    if entry.price is not None:
        usd, source, words = entry.price, "given", "--price"
    elif told:
        usd, source, words = statistics.fmean(told), "reported", "the answers"
    elif entry.label in quotes:
        usd, source, words = quotes[entry.label], "quoted", "its price endpoint"
    elif listed is not None:
        usd, source, words = listed.usd, "listed", listed.per
    else:
        return {"usd_per_picture": None, "source": "unknown", "from": "no answer and no list; --price says it"}
    return {"usd_per_picture": usd, "source": source, "from": words}


def errors(done: Iterable[Done]) -> list[JSON]:
    """The same words together, the most frequent first."""
    counted = Counter((each.kind, each.error) for each in done if each.error)
    return [{"kind": kind, "words": words, "jobs": jobs} for (kind, words), jobs in counted.most_common()]


def job(run: Run, phase: str) -> JSON:
    done = run.done
    return {
        "phase": phase,
        "label": run.label,
        "picture": run.picture,
        "round": run.round,
        "total_s": round(done.total_s, 4),
        "seconds": {name: round(seconds, 4) for name, seconds in done.seconds.items()},
        "bytes": run.bytes,
        "retries": done.retries,
        "polls": done.polls,
        "cost": done.cost,
        "kind": done.kind,
        "error": done.error or None,
    }


def _throughput(bursts: list[Burst]) -> JSON | None:
    if not bursts:
        return None
    good = [sum(not run.done.error for run in burst.runs) for burst in bursts]
    rates = [count / burst.wall_s * 60 for count, burst in zip(good, bursts, strict=True)]
    return {
        "at_a_time": bursts[0].at_a_time,
        "rounds": len(bursts),
        "jobs": sum(len(burst.runs) for burst in bursts),
        "results": sum(good),
        "pictures_per_minute": statistics.median(rates),
    }


def _means(scores: Iterable[dict[str, float | None]]) -> JSON:
    rows = list(scores)
    means: dict[str, Any] = {}
    for name in ("psnr", "haarpsi", "niqe"):
        known = [value for row in rows if (value := row[name]) is not None]
        means[name] = statistics.fmean(known) if known else None
    return means | {"pictures": len(rows)}


def _percentile(values: list[float], percent: float = 50) -> float | None:
    return float(np.percentile(values, percent)) if values else None
