"""The same pictures through several upscaling services, compared in speed, cost and quality.

    python -m benchmarks.hosted PICTURES… --vendor [LABEL=]NAME[@URL] … -o FOLDER

NAME is wavespeed, wavespeed-real-esrgan, vibedream, novita, runware, replicate or native; without @URL the vendor's own
address. Keys come from the environment: WAVESPEED_API_KEY, VIBEDREAM_API_KEY, NOVITA_API_KEY, RUNWARE_API_KEY,
REPLICATE_API_TOKEN, and NATIVE_API_KEY for every other address, unless --key says otherwise: a vendor's key goes to
that vendor alone.

FOLDER gets hosted.json, report.html, the pictures sent (inputs/) and those that came back (results/).
docs/comparing.md has the rest. --dry-run shows what would be sent and what it would cost, and sends nothing.
"""

import argparse
import json
import os
import platform
import re
import secrets
import statistics
from dataclasses import replace
from datetime import datetime, timezone

from benchmarks.hosted import race, report, summary
from benchmarks.hosted.line import Entry, Line, Patience
from benchmarks.hosted.options import FEWEST_ROUNDS, arguments, entries_of, scale_of
from benchmarks.hosted.picture import Picture, find, load
from benchmarks.hosted.results import Results
from benchmarks.hosted.vendors.base import JSON, Order, Sent

# --- before anything is sent ----------------------------------------------------------------------------------------


def jobs_each(args: argparse.Namespace, pictures: list[Picture]) -> int:
    return int(args.rounds * (len(pictures) + 2 * args.at_a_time))


def warnings_of(args: argparse.Namespace, entries: list[Entry], pictures: list[Picture]) -> list[str]:
    found = []
    if args.rounds < FEWEST_ROUNDS:
        found.append(f"Fewer than {FEWEST_ROUNDS} rounds: medians mean little.")
    jobs = args.rounds * len(pictures)
    if jobs < 20:
        found.append(f"p95 is of {jobs} jobs for each service: little more than the slowest of them.")
    for entry in entries:
        if entry.way == "inline" and entry.vendor.ways[0] == "url" and entry.base_url == entry.vendor.base_url:
            found.append(
                f"{entry.label} was sent pictures as data URIs; its documents know addresses only (--inputs-url)."
            )
    return found


def shown(entry: Entry, picture: Sent, order: Order) -> str:
    """The submit as text: no key, no picture."""
    image = entry.image(picture) if entry.way != "upload" else "(name of the upload)"
    ask = entry.vendor.submit(image, replace(order, fields=entry.fields))
    where = f"environment variable {entry.key_variable}, " + ("set" if entry.key else "NOT SET")
    lines = [f"{entry.label}: {entry.vendor.name}, key from {where}"]
    if entry.way == "upload":
        lines.append(f"  upload {picture.name}, {len(picture.data)} bytes, then")
    lines.append(f"  {ask.method} {entry.base_url}{ask.path}")
    body = json.dumps(ask.body)
    lines.append("  " + re.sub(r'("data:[^"]{40})[^"]*(?=")', r"\1…", body))
    if ask.file is not None:
        lines.append(f"  with the file {ask.file.name}, {len(ask.file.data)} bytes")
    return "\n".join(lines)


def plan(args: argparse.Namespace, entries: list[Entry], pictures: list[Picture], order: Order) -> str:
    jobs, total, unknown = jobs_each(args, pictures), 0.0, []
    lines = []
    for entry in entries:
        cost = summary.cost_of(entry, [], {})
        lines.append(shown(entry, pictures[0].sent, order))
        if (usd := cost["usd_per_picture"]) is None:
            unknown.append(entry.label)
            asked = "; asked before it begins" if entry.vendor.quote else ""
            lines.append(f"  {jobs} jobs; what one costs is not known{asked}\n")
        else:
            total += usd * jobs
            lines.append(f"  {jobs} jobs at ${usd:g} ({cost['source']}: {cost['from']}): ${usd * jobs:.2f}\n")
    without = f", and {', '.join(unknown)}" if unknown else ""
    lines.append(f"In all {jobs * len(entries)} jobs, ${total:.2f}{without}. Nothing was sent.")
    return "\n".join(lines)


def quotes_of(lines: list[Line], pictures: list[Picture], order: Order) -> summary.Quotes:
    """What services say, before they are asked to do it; the mean over the pictures."""
    quotes: summary.Quotes = {}
    for line in lines:
        if line.entry.price is None and line.entry.vendor.quote is not None:
            found = [line.quote(picture.sent, order) for picture in pictures]
            known = [usd for usd in found if usd is not None]
            if known:
                quotes[line.entry.label] = statistics.fmean(known)
    return quotes


def check_cost(args: argparse.Namespace, entries: list[Entry], pictures: list[Picture], quotes: summary.Quotes) -> None:
    """Raises SystemExit."""
    usd = sum(summary.cost_of(entry, [], quotes)["usd_per_picture"] or 0 for entry in entries)
    total = usd * jobs_each(args, pictures)
    if total > args.max_usd:
        raise SystemExit(f"this would cost about ${total:.2f}, more than --max-usd {args.max_usd:g}")


# --- the run --------------------------------------------------------------------------------------------------------


def measure(
    args: argparse.Namespace, entries: list[Entry], pictures: list[Picture], order: Order
) -> tuple[JSON, Results]:
    """Runs everything; what hosted.json holds, and the results, which are in the output folder."""
    from benchmarks.hosted import score  # torch: seconds that neither a dry run nor a mistake should cost

    started = datetime.now(timezone.utc)
    results = Results(args.output / "results")
    patience = Patience(args.timeout_s, args.poll_s, args.retries)
    lines = [Line(entry, patience) for entry in entries]
    runs: list[race.Run] = []
    bursts: list[race.Burst] = []
    warnings = warnings_of(args, entries, pictures)
    rounds_at_a_time = args.rounds if args.at_a_time else 0
    try:
        quotes = quotes_of(lines, pictures, order)
        check_cost(args, entries, pictures, quotes)
        total = args.rounds * len(pictures) * len(lines)
        for run in race.one_by_one(lines, pictures, order, args.rounds, args.pause_s, results):
            runs.append(run)
            print(f"{len(runs)}/{total} {run}", flush=True)
        for burst in race.at_a_time(lines, pictures, order, rounds_at_a_time, args.at_a_time, results):
            bursts.append(burst)
            print(burst, flush=True)
    except KeyboardInterrupt:  # what was paid for is not thrown away
        warnings.insert(0, "Stopped by hand: the figures are of what there was until then.")
    finally:
        for line in lines:
            line.close()

    scores: summary.Scores = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for picture in pictures:
        firsts = [image for entry in entries if (image := results.first(entry.label, picture.name)) is not None]
        size = sizes[picture.name] = score.common_size(firsts, picture.reference) if firsts else None
        for entry in entries:
            if size and (paths := results.of(entry.label, picture.name)):
                scores[entry.label, picture.name] = score.score_files(paths, size, picture.reference)
    jobs = [summary.job(run, "one by one") for run in runs]
    jobs += [summary.job(run, "at a time") for burst in bursts for run in burst.runs]
    found = {
        "id": secrets.token_hex(4),
        "started_at": started.strftime("%Y-%m-%d %H:%M UTC"),
        "measured_on": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rounds": args.rounds,
        "target": order.target,
        "scale": order.scale,
        "format": order.format,
        "sync": order.sync,
        "poll_s": args.poll_s,
        "reference_scale": args.reference_scale,
        "warnings": warnings,
        "pictures": [
            {
                "name": picture.name,
                "width": picture.sent.width,
                "height": picture.sent.height,
                "bytes": len(picture.sent.data),
                "reference": picture.reference is not None,
                "common_size": sizes[picture.name],
            }
            for picture in pictures
        ],
        "services": summary.summarise(entries, runs, bursts, scores, results.facts(), quotes),
        "jobs": jobs,
    }
    return found, results


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv, __doc__ or "")
    if args.reference_scale and args.references:
        raise SystemExit("--reference-scale makes sources of the references; --references has both: choose one")
    entries = entries_of(args, os.environ)
    pictures = load(find(args.pictures), args.reference_scale, args.references)
    order = Order(scale_of(args), args.target, args.format, "", args.sync)
    inputs = args.output / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (inputs / picture.sent.name).write_bytes(picture.sent.data)
    if args.dry_run:
        print(plan(args, entries, pictures, order))
        return
    for entry in entries:
        if not entry.key:
            raise SystemExit(f"{entry.label} needs a key: set the environment variable {entry.key_variable}")
    found, results = measure(args, entries, pictures, order)
    (args.output / "hosted.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    report.write(args.output / "report.html", found, results.first)
    print(f"{args.output / 'hosted.json'}, {args.output / 'report.html'}")


if __name__ == "__main__":
    main()
