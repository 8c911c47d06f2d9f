"""Tables in the documents, made from the code and from the benchmarks' JSON files: `python -m docs.tables` renews them.

Everything from `<!-- table: NAME -->` to `<!-- end -->` is replaced. tests/docs/test_tables.py fails when a table is
stale.
"""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined

import server.errors
import server.job.job
from server.api.dialects import DIALECTS
from server.api.dialects.native.openapi import OPERATIONS
from server.api.openapi.document import document
from server.api.webhooks import RETRIES, UPLOAD_RETRIES
from server.cli import app
from server.config import PREFIX, Config
from server.errors import BY_CODE
from server.job.creativity import ANCHORS
from server.job.formats import FORMATS
from server.refiners import whole_recipe
from server.weights.manifest import read_manifest

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

JOB_FIELDS = {
    "image": "The picture: a URL, a data URI or base64. A form carries a `file` instead.",
    "scale": "Factor s; the result is round(w·s) × round(h·s). If none of the four sizes is given: 4.",
    "target": "Long edge of the result: exactly 2048, 4096 or 8192 pixels; the aspect is kept.",
    "size": "Exact width and height of the result; the aspect may change. `[w, h]` or `\"WxH\"`.",
    "megapixels": "Area of the result in millions of pixels, but for the rounding of both sides; the aspect is kept.",
    "format": "Format of the result; [below](#formats).",
    "quality": "For jpeg, webp and avif; if absent: the format's default.",
    "lossless": "For webp and avif; png and tiff are always lossless.",
    "progressive": "For jpeg: viewers show a coarse picture first.",
    "depth": "Bits per sample; if absent: the source's, where the format can hold them.",
    "metadata": "Whether EXIF, XMP and IPTC are kept: [files.md](files.md#metadata).",
    "colour": "Keep the source's colour profile, or convert to sRGB.",
    "background": "Colour under transparent pixels in jpeg. `[r, g, b]` or `\"#rrggbb\"`.",
    "model": "A network's name, as `GET /models` lists them, or `auto`: [which](../weights/README.md#model-auto).",
    "denoise": "0 keeps grain, 1 smooths; for realesr-general-x4v3.",
    "creativity": "How much may be invented: [creativity.md](creativity.md). If absent: 0, or −2 for clean text.",
    "content": "What the picture shows; `auto` examines it. Used only if neither `model` nor `creativity` is given.",
    "faces": "Restore faces: true, or an object; [below](#faces).",
    "mask": "Where the result is that of creativity −2, exactly: an object with boxes or a picture; [below](#mask).",
    "grain": "Grain like the picture's own is added, which networks take away; at 1 as strong: [below](#grain).",
    "seed": "Seed of what creativity and grain add. If absent: computed from the picture, so that results repeat.",
    "animation": "For animations: `keep` all frames, where the format can hold them, or take only the `first`.",
    "wrap": "Along which axes the picture repeats, as seamless textures do: [below](#wrap).",
    "sweep": "The result is a sheet that shows one part of the picture at each whole creativity.",
    "sweep_at": "The middle of that part, in source pixels; if absent: where most detail is. `[x, y]` or `\"X,Y\"`.",
    "name": "The picture's file name, also with folders, for lists. If absent: that of the form's file.",
}  # fmt: skip
"""What each field of POST /jobs means. Its types and ranges are read from the code."""


def renewed(text: str) -> str:
    """A document with its tables up to date. Raises KeyError for a table that has no function here."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def documents() -> list[Path]:
    """Every Markdown document of the repository."""
    folders = (ROOT, ROOT / "docs", ROOT / "weights", ROOT / "weights" / "bundled", ROOT / "benchmarks")
    return sorted(path for folder in (*folders, ROOT / "training") for path in folder.glob("*.md"))


def table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: Iterable[int] = ()) -> str:
    """Markdown; `numbers`: the columns that are aligned right."""
    names = list(head)
    rule = ["--:" if column in set(numbers) else "---" for column in range(len(names))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *rows))


# --- settings and commands ------------------------------------------------------------------------------------------


def settings() -> str:
    rows = (
        (f"`{PREFIX}{name.upper()}`", _default(field.default), _range(field), unit(name), str(field.description))
        for name, field in Config.model_fields.items()
    )
    return table(("variable", "default", "may be", "unit", "meaning"), rows)


_UNITS = {
    "workers": "processes",
    "jobs_per_worker": "jobs",
    "tile": "pixels of the source",
    "max_queue": "jobs",
    "price_per_job": "USD",
    "price_per_megapixel": "USD per 10⁶ pixels",
}
_ENDINGS = {"_bytes": "bytes", "_pixels": "pixels", "_s": "seconds", "_seconds": "seconds"}


def unit(name: str) -> str:
    """The unit of a setting; empty for one that is not a quantity."""
    found = (unit for ending, unit in _ENDINGS.items() if name.endswith(ending))
    return _UNITS.get(name) or next(found, "")


def _default(value: Any) -> str:
    if value in (None, (), PydanticUndefined):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _range(field: Any) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    limits = {
        name: getattr(each, name) for each in field.metadata for name in ("ge", "gt", "le") if hasattr(each, name)
    }
    low = f"≥ {limits['ge']}" if "ge" in limits else f"> {limits['gt']}" if "gt" in limits else ""
    return f"{limits['ge']} … {limits['le']}" if "ge" in limits and "le" in limits else low


def deliveries() -> str:
    """The attempts at a delivery to a caller's address, and the pauses between them."""
    rows = [(name, "webhook", retries) for name, retries in RETRIES.items()]
    rows.append(("runware", "`uploadEndpoint`", UPLOAD_RETRIES))
    cells = (
        (
            name,
            kind,
            f"{1 + len(retries.pauses_s)}",
            ", ".join(f"{each:g}" for each in retries.pauses_s),
            f"{sum(retries.pauses_s):g}",
            f"{retries.timeout_s:g}",
        )
        for name, kind, retries in rows
    )
    head = ("API", "what", "tries", "pauses between them, s", "all pauses, s", "time for one try, s")
    return table(head, cells, numbers=(2, 4, 5))


def commands() -> str:
    return "\n\n".join(_command(name, command) for name, command in _commands(typer.main.get_command(app), ""))


def _commands(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name, command


def _command(name: str, command: Any) -> str:
    shown = [each for each in command.params if not each.hidden and each.name != "help"]
    wanted = [each for each in shown if each.param_type_name == "argument"]
    words = " ".join(f"{each.name.upper()}{'…' if each.nargs == -1 else ''}" for each in wanted)
    text = f"### {name}\n\n`python -m server {name}{f' {words}' if words else ''}` — {' '.join(command.help.split())}"
    rows = [_parameter(each) for each in shown]
    return f"{text}\n\n{table(('', 'default', 'meaning'), rows)}" if rows else text


def _parameter(parameter: Any) -> tuple[str, str, str]:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.name.upper() if is_argument else ", ".join(parameter.opts)
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    shown = "required" if parameter.required else "" if default in (None, False, (), "") else f"`{default}`"
    return f"`{names}`", shown, parameter.help or ""


# --- the native API -------------------------------------------------------------------------------------------------


def job_fields() -> str:
    schema = OPERATIONS["POST /jobs"].body["application/json"]
    rows = (
        (f"`{name}`", _may_be(each), _absent(each), JOB_FIELDS[name]) for name, each in schema["properties"].items()
    )
    return table(("field", "may be", "if absent", "meaning"), rows)


def _may_be(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        kinds = (_may_be(each) for each in schema["anyOf"] if each != {"type": "null"})
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        length = schema.get("minItems", schema.get("maxItems"))
        inner = _may_be(schema["items"]) if "items" in schema else "values"
        return f"{length} × {inner}" if length else f"list of {inner}"
    if kind in ("number", "integer"):
        return _numbers(schema, "whole number" if kind == "integer" else "number")
    return {"boolean": "`true`, `false`", "object": "object", "string": "text"}.get(str(kind), "")


def _numbers(schema: Mapping[str, Any], word: str) -> str:
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if high is None:
        return word if low is None else f"{word} ≥ {low}"
    most = "2⁶³ − 1" if high == 2**63 - 1 else f"{high:,.15g}"
    start = f"{low:g}" if low is not None else f"more than {above:g}"
    return f"{word} {start} … {most}"


def _absent(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "" if default is None else f"`{json.dumps(default)}`"


def operations() -> str:
    """Every route of every API, with the statuses of its answers."""
    rows = []
    for dialect in DIALECTS:
        for path, methods in document((dialect,))["paths"].items():
            for method, operation in methods.items():
                fine = [status for status in operation["responses"] if status < "300"]
                others = [status for status in operation["responses"] if status >= "300"]
                rows.append((dialect.NAME, f"`{method.upper()} {path}`", ", ".join(fine), ", ".join(others)))
    return table(("API", "route", "answers", "errors"), rows)


def errors() -> str:
    """As in the tree in the docstring of server/errors/__init__.py."""
    tree = server.errors.__doc__ or ""
    found = {match[1]: (match[2], match[3]) for match in re.finditer(r"── (\w+) +(\d{3})(?: +(.*))?", tree)}
    meanings = {
        "Unauthorized": "no key, or an invalid one",
        "Forbidden": "this `Host` or `Origin` is not allowed: see [security.md](security.md)",
    }
    meanings |= {
        "NotFound": "it does not exist, or belongs to another key",
        "MethodNotAllowed": "the route does not take this method",
    }
    meanings |= {"JobCancelled": "the job was cancelled", "UpscaleError": "an error inside the server"}
    rows = [
        (f"`{code}`", str(cls.status), found.get(cls.__name__, ("", ""))[1] or meanings[cls.__name__])
        for code, cls in sorted(BY_CODE.items(), key=lambda item: (item[1].status, item[0]))
        if cls.__name__ not in ("InvalidRequest", "BadSource") or found
    ]
    return table(("`code`", "status", "meaning"), rows)


def formats() -> str:
    rows = (
        (
            f"`{each.name}`",
            f"{each.max_side:,}",
            f"{each.depth}",
            _tick(each.alpha),
            _tick(each.grey),
            _tick(each.lossless),
            f"{each.default_quality or ''}",
        )
        for each in FORMATS.values()
    )
    head = ("format", "longest side", "bits per sample", "alpha", "grey", "lossless", "`quality`, if absent")
    return table(head, rows, numbers=(1, 2))


def _tick(value: bool) -> str:
    return "yes" if value else ""


# --- networks -------------------------------------------------------------------------------------------------------


def creativity() -> str:
    folder = ROOT / "server"
    common = _field_docs(folder / "job" / "creativity.py", "Recipe")
    bundled = _field_docs(folder / "refiners" / "bundled" / "settings.py", "Settings")
    sdxl = _field_docs(folder / "refiners" / "sdxl" / "settings.py", "Settings")
    meanings = {"fidelity": common.pop("fidelity")} | bundled
    meanings |= {name: meaning for name, meaning in common.items() if name not in bundled}
    meanings |= {f"sdxl_{name}": meaning for name, meaning in sdxl.items()}
    head = ("", *(f"{anchor:+g}".replace("+0", "0").replace("-", "−") for anchor in ANCHORS), "what it is")
    rows = (
        (f"`{name}`", *(f"{whole_recipe(anchor)[name]:g}" for anchor in ANCHORS), meaning)
        for name, meaning in meanings.items()
    )
    return table(head, rows, numbers=range(1, len(ANCHORS) + 1))


def _field_docs(path: Path, name: str) -> dict[str, str]:
    """Fields of a class and the text below each."""
    tree = ast.parse(path.read_text("utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    docs: dict[str, str] = {}
    for field, said in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_text = isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant)
            docs[field.target.id] = " ".join(str(said.value.value).split()) if is_text else ""  # type: ignore[attr-defined]
    return docs


def models() -> str:
    rows = (
        (
            f"`{each.name}`" + (" (bundled)" if each.bundled else ""),
            each.kind.value,
            f"×{each.geometry.scale}" if each.geometry else "",
            f"{each.size / 1e6:,.1f}" if each.size else "?",
            each.licence,
            "yes" if each.commercial else "**no, or in doubt**",
            _host(each.files[0].url),
        )
        for each in read_manifest().entries.values()
    )
    return table(("name", "kind", "", "MB", "licence", "commercial use", "published at"), rows, numbers=(3,))


def _host(url: str) -> str:
    return re.sub(r"https://([^/]+/[^/]+/[^/]+)/.*", r"<https://\1>", url)


# --- figures --------------------------------------------------------------------------------------------------------


def _figures(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text("utf-8"))
    return found


def quality_clean() -> str:
    clean = _figures("quality")["clean"]
    rows = [
        (row, *(f"{each[row]['psnr_y']:.2f} / {each[row]['ssim_y']:.4f}" for each in clean.values()))
        for row in next(iter(clean.values()))
    ]
    return table(("", *clean), rows)


def quality_damaged() -> str:
    rows = (
        (row, f"{each['psnr_rgb']:.2f}", f"{each['haarpsi']:.4f}", f"{each['niqe']:.2f}")
        for row, each in _figures("quality")["degraded"].items()
    )
    return table(("", "PSNR RGB dB", "HaarPSI", "NIQE"), rows, numbers=(1, 2, 3))


def quality_flat() -> str:
    flat = _figures("quality")["flat"].items()
    rows = ((row, f"{each['shift']:.2f}", f"{each['texture']:.2f}") for row, each in flat)
    return table(("", "shift", "texture"), rows, numbers=(1, 2))


def content() -> str:
    found = _figures("content")
    text = found["text"]
    plain = [name for name in text if name.endswith("as it is")]
    treated = {name: each for name, each in found["photographs"].items() if name != "as it is"}
    worst = max(treated, key=lambda name: treated[name].get("text", 0))
    rows = (
        ("photographs and paintings, as they are", *_as_text([found["photographs"]["as it is"]])),
        (f"the same after {len(treated)} treatments", *_as_text(treated.values())),
        (f"the worst treatment: {worst}", *_as_text([treated[worst]])),
        ("screens, charts and pages, as they are", *_as_text(text[name] for name in plain)),
        ("the same after JPEG, enlarged, reduced, grey", *_as_text(text[name] for name in text if name not in plain)),
    )
    return table(("", "taken for text", "of", "%"), rows, numbers=(1, 2, 3))


def _as_text(counts: Iterable[Mapping[str, int]]) -> tuple[str, str, str]:
    """How many were taken for text, of how many, and their share in percent."""
    found = list(counts)
    taken, of = sum(each.get("text", 0) for each in found), sum(sum(each.values()) for each in found)
    return f"{taken}", f"{of:,}", f"{100 * taken / of:.1f}"


_UNMEASURED = "Not measured yet: `python -m benchmarks.quality --json benchmarks/quality.json`."


def quality_eye() -> str:
    """A table for each set."""
    figures = _figures("quality")
    blocks = []
    for kind, rows in figures.get("means", {}).items():
        count = len(next(iter(figures["pictures"][kind].values())))
        head = (
            "",
            "Y dB",
            "Cb",
            "Cr",
            "RGB",
            "HaarPSI",
            "NIQE",
            "mesh Y",
            "Cb",
            "Cr",
            "drift",
            "local",
            "energy",
            "distance",
        )
        lines = ((row, *(_figure(each.get(name), form) for name, form in _EYE)) for row, each in rows.items())
        blocks.append(f"**{kind}**, {count} pictures\n\n{table(head, lines, numbers=range(1, len(head)))}")
    return "\n\n".join(blocks) or _UNMEASURED


_EYE = (
    *((f"psnr_{name}", ".2f") for name in ("y", "cb", "cr", "rgb")),
    ("haarpsi", ".3f"),
    ("niqe", ".2f"),
    *((f"mesh_{name}", ".2f") for name in ("y", "cb", "cr")),
    ("drift", ".2f"),
    ("drift_local", ".1f"),
    ("energy", ".1f"),
    ("distance", ".1f"),
)


def quality_letters() -> str:
    letters = _figures("quality").get("letters")
    if not letters:
        return _UNMEASURED
    names = dict.fromkeys(row for rows in letters.values() for row in rows)
    lines = ((row, *(_figure(rows.get(row), ".1%") for rows in letters.values())) for row in names)
    return table(("", *letters), lines, numbers=range(1, len(letters) + 1))


def quality_checks() -> str:
    found = _figures("quality").get("checks")
    words = {True: "yes", False: "**no**", None: "not measured"}
    lines = ((each["asked"], each["found"], words[each["passed"]]) for each in found or ())
    return table(("required", "found", "met"), lines) if found else _UNMEASURED


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def content_kinds() -> str:
    """What the rule decides for each kind of picture."""
    figures = _figures("content")
    lines = []
    for group, rows in (
        ("photograph", figures["photographs"]),
        ("text", figures["text"]),
        ("drawing", figures["drawings"]),
    ):
        sums: dict[str, list[dict[str, int]]] = {}
        for name, counts in rows.items():
            sums.setdefault(f"{group}: {name}" if group == "photograph" else name.partition(": ")[0], []).append(counts)
        for name, parts in sums.items():
            answers = [sum(each.get(kind, 0) for each in parts) for kind in ("photo", "text", "drawing")]
            lines.append((name, f"{sum(answers)}", *(f"{each}" for each in answers)))
    return table(("what it is", "pictures", "photo", "text", "drawing"), lines, numbers=range(1, 5))


def codecs() -> str:
    rows = [
        (
            name,
            *(f"{each[kind]['cpu_s']:.2f}" for kind in ("photo", "noise")),
            *(f"{each[kind]['bits_per_pixel']:.2f}" for kind in ("photo", "noise")),
            f"{max(each[kind]['bytes_held_per_pixel'] for kind in ('photo', 'noise')):.1f}",
        )
        for name, each in _figures("codecs").items()
    ]
    head = ("encoder", "CPU s, photo", "noise", "bit/pixel, photo", "noise", "bytes held per pixel")
    return table(head, rows, numbers=range(1, 6))


GPU_TFLOPS = {"T4": 65, "L4": 121, "RTX 4090": 165, "A100": 312, "L40S": 362, "H100, H200": 989}
"""Dense matrix products in fp16, as NVIDIA's data sheets say."""
_SHARE_OF_PEAK = (0.2, 0.5)
"""Assumed, not measured: how much of it a network's convolutions reach."""
_OVERLAP = 1.1
"""Pixels that tiles compute, compared with the picture's."""
_SIZES = ((640, 480), (1280, 720), (1920, 1080))


def sizing() -> str:
    rows = []
    for network, name in (("fidelity-x4", "pipeline"), ("RealESRGAN_x4plus", "pipeline_x4plus")):
        measured = _figures(name)
        device, job = measured["device"].partition(", float")[0], measured["large"]
        width, height = map(int, job["source"].split("x"))
        per_pixel = job["seconds"]["jpeg"] / (width * height)
        hourly = (f"{_two(3600 / (per_pixel * w * h)):,.0f}" for w, h in _SIZES)
        rows.append((network, device, *hourly, f"measured at {width} × {height}"))
    # The large network's operations for a source pixel, from the time and speed of its plain convolution.
    plain = _figures("speed")["RRDBNet-23 256x256"]["contenders"]["ours, torch fp32"]
    per_pixel = plain["tflops"] * plain["seconds"] / (256 * 256) * _OVERLAP
    for gpu, peak in GPU_TFLOPS.items():
        hourly = (
            " to ".join(f"{_two(share * peak / (per_pixel * w * h) * 3600):,.0f}" for share in _SHARE_OF_PEAK)
            for w, h in _SIZES
        )
        rows.append(("RealESRGAN_x4plus", gpu, *hourly, "computed"))
    return table(("network", "machine", *(f"{w} × {h}" for w, h in _SIZES), "how"), rows, numbers=(2, 3, 4))


def _two(number: float) -> float:
    """To two digits: more would look as if it were known."""
    return float(f"{number:.2g}")


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "deliveries": deliveries,
    "commands": commands,
    "job-fields": job_fields,
    "operations": operations,
    "errors": errors,
    "formats": formats,
    "creativity": creativity,
    "models": models,
    "quality-clean": quality_clean,
    "quality-damaged": quality_damaged,
    "quality-flat": quality_flat,
    "quality-eye": quality_eye,
    "quality-letters": quality_letters,
    "quality-checks": quality_checks,
    "content-kinds": content_kinds,
    "codecs": codecs,
    "sizing": sizing,
    "content": content,
}


def main() -> None:
    for path in documents():
        text = path.read_text("utf-8")
        if (made := renewed(text)) != text:
            path.write_text(made, "utf-8")


if __name__ == "__main__":
    main()
