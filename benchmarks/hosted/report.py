"""The figures for eyes: one HTML file that needs nothing else, with charts, tables, and a blind vote on the results.

Pictures are reduced: of each result the whole at most WHOLE pixels long, and its busiest part, DETAIL pixels square, as
it is; both of the common size, so that a size gives no name away, as WebP of quality QUALITY. Pictures that would bring
the file over `max_bytes` are left out, from the last, and the report says so.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.hosted.chart import Bar, bars
from benchmarks.hosted.picture import brought_to, same_shape
from benchmarks.hosted.summary import STAGES
from benchmarks.hosted.vendors.base import JSON

WHOLE = 720
DETAIL = 400
QUALITY = 92
MAX_BYTES = 24 * 1024 * 1024

HERE = Path(__file__).parent
Results = Callable[[str, str], Image.Image | None]
"""The result of (label, picture), or None."""


def write(path: Path, found: JSON, results: Results, max_bytes: int = MAX_BYTES) -> None:
    """`found`: what __main__ writes as JSON."""
    path.write_text(page(found, results, max_bytes), "utf-8")


def page(found: JSON, results: Results, max_bytes: int = MAX_BYTES) -> str:
    vote, left_out = _vote(found, results, max_bytes)
    style, script = ((HERE / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    services = found["services"]
    parts = [
        f"<p class='note'>{_head(found)}</p>",
        *(f"<p class='warning'>{escape(text)}</p>" for text in found["warnings"]),
        _section("Latency", _latency(services), "latency"),
        _section("Throughput", _throughput(services), "throughput"),
        _section("Cost", _cost(services), "cost"),
        _section("Quality", _quality(services), "quality"),
        _section("All figures", _table(services), "figures"),
        _section("Errors", _errors(services), "errors"),
        _section("Blind vote", _ballot(vote, left_out), "vote"),
        _section("Picture by picture", _pictures(services), "pictures"),
    ]
    policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
    policy += f"; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    data = json.dumps(vote).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Upscaling services compared</title>
<style>{style}</style>
</head>
<body>
<header><h1>Upscaling services compared</h1></header>
<main>
{"".join(parts)}
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


# --- charts and tables ----------------------------------------------------------------------------------------------


def _head(found: JSON) -> str:
    text = f"{found['started_at']} · {len(found['pictures'])} pictures, {found['rounds']} rounds, "
    text += f"services taking turns · wanted: {found['target']} where sizes are named, ×{found['scale']:g} where "
    text += f"factors are, as {found['format']}"
    if found["reference_scale"]:
        text += f" · sources are references reduced {found['reference_scale']} times"
    waits = "within the submit where the service can" if found["sync"] else f"asked every {found['poll_s']:g} s"
    return escape(f"{text} · {waits}")


def _section(title: str, inside: str, name: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{inside}</section>'


def _latency(services: list[JSON]) -> str:
    rows = []
    for each in services:
        latency = each["latency"]
        if latency["p50_s"] is None:
            rows.append(Bar(each["label"], (), "no result"))
            continue
        stages = [(f"stage{number}", latency["stages_s"][name]) for number, name in enumerate(STAGES)]
        text = f"{_s(latency['p50_s'])} · p95 {_s(latency['p95_s'])}"
        parts = ", ".join(f"{name} {_s(latency['stages_s'][name])}" for name in STAGES)
        rows.append(Bar(each["label"], stages, text, latency["p95_s"], f"{text} ({parts})"))
    key = "".join(f'<li><i class="stage{number}"></i>{name}</li>' for number, name in enumerate(STAGES))
    note = "From the first byte sent to the last byte of the result. Bars: medians of the stages. Tick: p95 of all."
    return (
        bars("Latency, median", rows)
        + f'<ul class="key">{key}<li><i class="mark"></i>p95</li></ul><p class="note">{note}</p>'
    )


def _throughput(services: list[JSON]) -> str:
    measured = [each for each in services if each["throughput"]]
    if not measured:
        return '<p class="note">Not measured: --at-a-time 0.</p>'
    rows = [
        Bar(
            each["label"],
            [("stage2", each["throughput"]["pictures_per_minute"])],
            f"{each['throughput']['pictures_per_minute']:.1f} / min",
        )
        for each in measured
    ]
    first = measured[0]["throughput"]
    note = (
        f"{first['at_a_time']} jobs at a time, median of {first['rounds']} rounds; jobs without a result don't count."
    )
    return bars("Pictures per minute", rows) + f'<p class="note">{note}</p>'


def _cost(services: list[JSON]) -> str:
    rows = []
    for each in services:
        usd = each["cost"]["usd_per_picture"]
        text = "unknown" if usd is None else f"${usd * 1000:,.2f} · {each['cost']['source']}"
        rows.append(Bar(each["label"], [] if usd is None else [("stage2", usd)], text))
    where = "; ".join(f"{each['label']}: {each['cost']['from']}" for each in services)
    note = f"Per 1000 pictures. Where it comes from: {where}. A server of your own costs its machine and power instead."
    return bars("Cost of 1000 pictures", rows) + f'<p class="note">{escape(note)}</p>'


def _quality(services: list[JSON]) -> str:
    charts = []
    for name, title, text, low in (
        ("haarpsi", "HaarPSI, more is nearer", "{:.4f}", None),
        ("psnr", "PSNR in dB, more is nearer", "{:.2f} dB", None),
        ("niqe", "NIQE, less looks more natural", "{:.2f}", 0.0),
    ):
        known = [each for each in services if each["quality"][name] is not None]
        if not known:
            continue
        values = [each["quality"][name] for each in known]
        # Differences of PSNR and HaarPSI are small beside the figures: their axis begins below the least of them.
        start = (
            max(0.0, min(values) - max(0.5 * (max(values) - min(values)), 0.1 * max(values))) if low is None else low
        )
        rows = [
            Bar(each["label"], [("stage2", each["quality"][name])], text.format(each["quality"][name]))
            for each in known
        ]
        axis = f" (axis from {text.format(start)})" if start else ""
        charts.append(f"<h3>{title}<small>{axis}</small></h3>{bars(title, rows, start)}")
    note = "Means over the pictures, all results of one brought to one size. No figure replaces looking: vote below."
    return "".join(charts or ["<p class='note'>No result was large enough.</p>"]) + f'<p class="note">{note}</p>'


_COLUMNS: tuple[tuple[str, Callable[[JSON], str]], ...] = (
    ("p50", lambda each: _s(each["latency"]["p50_s"])),
    ("p95", lambda each: _s(each["latency"]["p95_s"])),
    ("pictures/min", lambda each: _n(each["throughput"] and each["throughput"]["pictures_per_minute"], 1)),
    ("$ per 1000", lambda each: _n(each["cost"]["usd_per_picture"], 2, 1000)),
    ("cost from", lambda each: each["cost"]["source"]),
    ("PSNR dB", lambda each: _n(each["quality"]["psnr"], 2)),
    ("HaarPSI", lambda each: _n(each["quality"]["haarpsi"], 4)),
    ("NIQE", lambda each: _n(each["quality"]["niqe"], 2)),
    ("jobs", lambda each: str(each["jobs"])),
    ("errors", lambda each: str(sum(error["jobs"] for error in each["errors"]))),
    ("timeouts", lambda each: str(each["timeouts"])),
    ("retries", lambda each: str(each["retries"])),
    ("sent by", lambda each: each["sent"]),
)


def _table(services: list[JSON]) -> str:
    head = ["service", *(name for name, _ in _COLUMNS)]
    return _rows("All figures", head, [[each["label"], *(read(each) for _, read in _COLUMNS)] for each in services])


def _errors(services: list[JSON]) -> str:
    rows = [[s["label"], e["kind"], str(e["jobs"]), e["words"]] for s in services for e in s["errors"]]
    if not rows:
        return '<p class="note">None.</p>'
    return _rows("Errors", ["service", "what", "jobs", "in its words"], rows)


def _pictures(services: list[JSON]) -> str:
    rows = []
    for number, first in enumerate(services[0]["pictures"]):
        for service in services:
            each = service["pictures"][number]
            size = f"{each['width']} × {each['height']}" if "width" in each else "–"
            figures = [_s(each["p50_s"]), size, each.get("format", "–"), _n(each.get("bytes"), 0, 1 / 1024)]
            figures += [_n(each.get("psnr"), 2), _n(each.get("haarpsi"), 4), _n(each.get("niqe"), 2)]
            rows.append([first["name"], service["label"], *figures])
    head = ["picture", "service", "median", "size", "format", "KiB", "PSNR dB", "HaarPSI", "NIQE"]
    return _rows("Picture by picture", head, rows)


def _rows(caption: str, head: list[str], rows: list[list[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" role="region" tabindex="0" aria-label="Table: {escape(caption)}">{table}</div>'


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f} s"


def _n(value: float | None, digits: int, times: float = 1.0) -> str:
    return "–" if value is None else f"{value * times:,.{digits}f}"


# --- the blind vote -------------------------------------------------------------------------------------------------


def _ballot(vote: JSON, left_out: list[str]) -> str:
    """The frame; report.js fills it."""
    if not vote["pictures"]:
        return '<p class="note">It needs two services with a result of the same picture.</p>'
    note = (
        f"<p class='note'>Left out, for the size of this file: {escape(', '.join(left_out))}.</p>" if left_out else ""
    )
    return (HERE / "ballot.html").read_text("utf-8") + note


def _vote(found: JSON, results: Results, max_bytes: int) -> tuple[JSON, list[str]]:
    """What report.js needs, and the names of pictures left out. Names of services are kept apart from the pictures."""
    labels = [each["label"] for each in found["services"]]
    pictures: list[JSON] = []
    left_out: list[str] = []
    room = max_bytes
    for picture in found["pictures"]:
        size = tuple(picture["common_size"] or ())
        got = {label: image for label in labels if (image := results(label, picture["name"])) is not None}
        got = {label: image for label, image in got.items() if same_shape(image.size, size)}
        if len(got) < 2:
            continue
        images = {str(labels.index(label)): image for label, image in _embedded(got, size).items()}
        need = sum(len(data) for image in images.values() for data in image.values())
        if left_out or need > room:
            left_out.append(picture["name"])
            continue
        room -= need
        pictures.append({"name": picture["name"], "aspect": size[0] / size[1], "images": images})
    return {"run": found["id"], "services": labels, "pictures": pictures}, left_out


def _embedded(results: dict[str, Image.Image], size: Any) -> dict[str, dict[str, str]]:
    """{label: {"whole": data URI, "detail": data URI}}; the detail is the same spot of all."""
    shown = {label: brought_to(image, size) for label, image in results.items()}
    spot = _spot(next(iter(shown.values())))
    whole = min(1.0, WHOLE / max(size))
    small = (max(1, round(size[0] * whole)), max(1, round(size[1] * whole)))
    return {
        label: {"whole": _data_uri(brought_to(image, small)), "detail": _data_uri(image.crop(spot))}
        for label, image in shown.items()
    }


def _spot(image: Image.Image) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the busiest square: the largest sum of gradients, found on a reduced copy."""
    side = min(DETAIL, *image.size)
    ratio = min(1.0, 512 / max(image.size))
    grey = image.convert("L").resize([max(1, round(length * ratio)) for length in image.size], Image.Resampling.BOX)
    levels = np.asarray(grey, np.float64)
    busy = np.abs(np.diff(levels, axis=0, append=levels[-1:])) + np.abs(np.diff(levels, axis=1, append=levels[:, -1:]))
    sums = np.pad(busy, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    small = max(1, min(round(side * ratio), *levels.shape))
    windows = sums[small:, small:] - sums[:-small, small:] - sums[small:, :-small] + sums[:-small, :-small]
    top, left = (int(place / ratio) for place in np.unravel_index(int(windows.argmax()), windows.shape))
    left, top = min(left, image.width - side), min(top, image.height - side)
    return left, top, left + side, top + side


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
