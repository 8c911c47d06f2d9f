"""The figures of a certificate, computed from two files without this server: by the formulas of docs/certificate.md,
with numpy and Pillow alone. For small pictures of 8 bits, without colour profiles: it holds all of both in floats.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Planes = NDArray[np.float64]


def recomputed(source: Path, result: Path, known: dict[str, Any] | None = None) -> tuple[dict[str, Any], Planes]:
    """The figures and the heat map. `known`: a certificate, for where tiles were joined, faces and the background."""
    known = known or {"background": "#ffffff", "tiles": {"columns": [], "rows": []}, "faces": []}
    s, r = _planes(source, result, known["background"])
    c = s.shape[2]
    colours = c - (c in (2, 4))
    (h, w), (big_h, big_w) = s.shape[:2], r.shape[:2]
    grid_h, grid_w = min(h, big_h), min(w, big_w)
    s = _applied(_area(grid_h, h), s, _area(grid_w, w))
    down, across = _area(grid_h, big_h), _area(grid_w, big_w)
    d = _applied(down, r, across) - s
    detail = r - _applied(_linear(grid_h, big_h), s, _linear(grid_w, big_w))
    squares = _applied(down, (detail**2).sum(axis=2, keepdims=True), across)[..., 0]
    fine = squares - (_applied(down, detail, across) ** 2).sum(axis=2)
    variance = r.var(axis=(0, 1)).sum()
    blocks = [
        d[top : top + 8, left : left + 8, :colours].mean(axis=(0, 1))
        for top in range(0, grid_h, 8)
        for left in range(0, grid_w, 8)
    ]
    at, elsewhere = [], []
    turned = detail.swapaxes(0, 1)
    for plane, joints, n in ((turned, known["tiles"]["columns"], grid_w), (detail, known["tiles"]["rows"], grid_h)):
        steps = np.abs(np.diff(plane, axis=0))
        borders = {round(i * len(plane) / n) for i in range(1, n)}
        at += [steps[each - 1].ravel() for each in joints]
        elsewhere += [steps[each - 1].ravel() for each in borders if all(abs(each - joint) > 1 for joint in joints)]
    ours, theirs = (each[..., :colours].mean(axis=2) for each in (d + s, s))
    faces = []
    for face in known["faces"]:
        left, top, right, bottom = face["box"]
        x = slice(max(0, int(np.floor(left * grid_w / w))), int(np.ceil(right * grid_w / w)))
        y = slice(max(0, int(np.floor(top * grid_h / h))), int(np.ceil(bottom * grid_h / h)))
        a, b = ours[y, x].ravel(), theirs[y, x].ravel()
        faces.append({"correlation": float(np.corrcoef(a, b)[0, 1]), "difference": float(np.abs(a - b).mean())})
    distances = np.abs(d)
    p99 = np.percentile(distances, 99, method="inverted_cdf")
    figures = {
        "difference": {"mean": distances.mean(), "p99": p99, "max": distances.max()},
        "fine_energy": fine.mean() / variance if variance > 0.01 * c else 0.0,
        "drift": {
            "mean": np.abs(d[..., :colours].mean(axis=(0, 1))).mean(),
            "local": np.percentile(np.abs(blocks), 99),
        },
        "seams": np.concatenate(at).mean() / max(np.concatenate(elsewhere).mean(), 0.02) if at and elsewhere else None,
        "faces": faces,
    }
    return figures, np.minimum(255, 4 * np.sqrt(np.maximum(squares, 0) / c))


def _planes(source: Path, result: Path, background: str) -> tuple[Planes, Planes]:
    """Both in levels, with the same planes: grey or red, green, blue; and alpha, if the source is not opaque."""
    pictures = []
    for path in (source, result):
        with Image.open(path) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        alpha = "A" in image.getbands()
        grey = image.mode in ("L", "LA")
        planes = np.asarray(image.convert("LA" if grey else "RGBA"), np.float64)
        pictures.append((planes[..., :-1], planes[..., -1:], alpha, grey))
    (s, s_alpha, _, s_grey), (r, r_alpha, r_has, r_grey) = pictures
    if not (s_grey and r_grey):
        s, r = (np.broadcast_to(each, (*each.shape[:2], 3)) for each in (s, r))
    if not r_has:
        behind = np.array([int(background[i : i + 2], 16) for i in (1, 3, 5)], np.float64)
        s = s * s_alpha / 255 + (1 - s_alpha / 255) * (behind if s.shape[2] == 3 else behind.mean())
        return s, np.array(r)
    s, r = s * s_alpha / 255, r * r_alpha / 255
    if (s_alpha == 255).all():
        return s, r
    return np.concatenate((s, s_alpha), axis=2), np.concatenate((r, r_alpha), axis=2)


def _area(cells: int, pixels: int) -> Planes:
    """A: cells × pixels."""
    edges, at = np.arange(cells + 1) * pixels / cells, np.arange(pixels)
    covered = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return np.asarray(np.clip(covered, 0, None) * cells / pixels)


def _linear(cells: int, pixels: int) -> Planes:
    """L: pixels × cells."""
    places = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return np.asarray(np.clip(1 - np.abs(places[:, None] - np.arange(cells)), 0, None))


def _applied(down: Planes, planes: Planes, across: Planes) -> Planes:
    return np.asarray(np.einsum("yj,jkc,xk->yxc", down, planes, across, optimize=True))
