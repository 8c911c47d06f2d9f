"""What the command line says, checked; mistakes are told in words."""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.hosted.line import Entry
from benchmarks.hosted.vendors import BY_NAME

ELSEWHERE_KEY = "NATIVE_API_KEY"
"""The variable of the key for addresses that are not a vendor's own."""
FEWEST_ROUNDS = 3
"""Fewer are for trying out."""
_ENTRY = re.compile(r"(?:([\w.-]{1,24})=)?([a-z-]+)(?:@(https?://\S+))?")


def arguments(argv: list[str] | None, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hosted",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", help="files and folders")
    add("--vendor", action="append", required=True, metavar="[LABEL=]NAME[@URL]", help="may be repeated")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    add("--reference-scale", type=_at_least(int, 2), metavar="N", help="pictures are references; send them N× reduced")
    add("--references", type=Path, metavar="FOLDER", help="references of the same names as the pictures")
    add("--target", choices=("2k", "4k", "8k"), default="2k", help="for APIs that know sizes (default: 2k)")
    add("--scale", type=float, help="for APIs that know factors (default: the reference scale, or 4)")
    add("--format", choices=("png", "jpeg", "webp"), default="png", help="of the results (default: png)")
    add("--rounds", type=_at_least(int, 1), default=FEWEST_ROUNDS, help="default: 3")
    add("--at-a-time", type=_at_least(int, 0), default=4, help="for the throughput; 0 leaves it out (default: 4)")
    add("--sync", action="store_true", help="wait within the submit where the API has that")
    add("--poll-s", type=_at_least(float, 0.01), default=0.5, help="between polls (default: 0.5)")
    add("--timeout-s", type=_at_least(float, 0.1), default=300.0, help="of a job (default: 300)")
    add("--retries", type=_at_least(int, 0), default=3, help="of a request (default: 3)")
    add("--pause-s", type=_at_least(float, 0), default=0.0, help="between jobs, for rate limits (default: 0)")
    add("--inputs-url", default="", metavar="URL", help="where FOLDER/inputs/ can be fetched from")
    add("--send", action="append", default=[], metavar="LABEL=WAY", help="upload, form, url or inline")
    add(
        "--field", action="append", default=[], metavar="LABEL.NAME=JSON", help="set a field of the request; null: none"
    )
    add("--price", action="append", default=[], metavar="LABEL=USD", help="of a picture, where we don't know it")
    add("--key", action="append", default=[], metavar="LABEL=VARIABLE", help="which environment variable has the key")
    add("--max-usd", type=_at_least(float, 0), default=5.0, help="don't begin if it would cost more (default: 5)")
    add("--dry-run", action="store_true", help="show what would be sent and what it would cost")
    return parser.parse_args(argv)


def entries_of(args: argparse.Namespace, environment: Mapping[str, str]) -> list[Entry]:
    """The services. Raises SystemExit in words."""
    entries: dict[str, Entry] = {}
    for text in args.vendor:
        match = _ENTRY.fullmatch(text)
        if not match or match[2] not in BY_NAME:
            raise SystemExit(f"--vendor {text}: want [LABEL=]NAME[@URL], NAME one of {', '.join(BY_NAME)}")
        vendor, label = BY_NAME[match[2]], match[1] or match[2]
        if label in entries:
            raise SystemExit(f"--vendor {text}: there is a {label} already; give it a label of its own, LABEL={text}")
        base_url = (match[3] or vendor.base_url).rstrip("/")
        variable = vendor.key if base_url == vendor.base_url else ELSEWHERE_KEY
        ways = [way for way in vendor.ways if way != "url" or args.inputs_url]
        entries[label] = Entry(label, vendor, base_url, ways[0], args.inputs_url.rstrip("/"), key_variable=variable)

    def change(option: str, text: str, label: str, **changes: Any) -> None:
        if label not in entries:
            raise SystemExit(f"--{option} {text}: there is no {label or 'label'}; there are {', '.join(entries)}")
        entries[label] = replace(entries[label], **changes)

    for text in args.send:
        label, way = _halves("send", text)
        if label in entries and way not in entries[label].vendor.ways:
            raise SystemExit(f"--send {text}: {label} takes {', '.join(entries[label].vendor.ways)}")
        if way == "url" and not args.inputs_url:
            raise SystemExit(f"--send {text} needs --inputs-url, where the pictures can be fetched from")
        change("send", text, label, way=way)
    for text in args.price:
        label, usd = _halves("price", text)
        try:
            change("price", text, label, price=float(usd))
        except ValueError as error:
            raise SystemExit(f"--price {text}: {usd} is not a number") from error
    for text in args.key:
        label, variable = _halves("key", text)
        change("key", text, label, key_variable=variable)
    for text in args.field:
        left, value = _halves("field", text)
        label, _, name = left.rpartition(".")
        fields = entries[label].fields if label in entries else {}
        change("field", text, label, fields={**fields, name: _json(value)})
    scale = scale_of(args)
    for label, entry in entries.items():
        least, most = entry.vendor.scales
        if entry.vendor.by == "scale" and not (least < scale <= most):
            raise SystemExit(f"{label} enlarges more than {least:g} and at most {most:g} times, not {scale:g}")
        if entry.vendor.whole_scales and scale != int(scale):
            raise SystemExit(f"{label} takes whole factors only, not {scale:g}")
        own = environment.get(entry.key_variable, "").strip()
        if not re.fullmatch(r"[!-~]*", own):  # no header can hold it, and an error about that would show it
            raise SystemExit(f"{label}: {entry.key_variable} is no key: keys are visible ASCII characters")
        entries[label] = replace(entry, key=own or ("any" if entry.key_variable == ELSEWHERE_KEY else ""))
    return list(entries.values())


def scale_of(args: argparse.Namespace) -> float:
    return float(args.scale or args.reference_scale or 4)


def _halves(option: str, text: str) -> tuple[str, str]:
    left, sign, right = text.partition("=")
    if not sign:
        raise SystemExit(f"--{option} {text}: there is no = in it")
    return left, right


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _at_least(kind: Any, least: float) -> Any:
    def read(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}")
        return value

    read.__name__ = kind.__name__
    return read
