"""Networks of ×1 enhance without enlarging, alone or before the one that enlarges."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from server.config import Config
from server.errors import InvalidField, ModelNotFound
from server.job.job import Params
from server.weights.catalog import Catalog
from server.worker.indexer import index
from server.worker.upscaler import Upscaler
from tests import networks
from tests.networks import save
from tests.pictures import encoded


@pytest.fixture
def upscaler(tmp_path: Path) -> Upscaler:
    """With two networks of ×1 and one of ×4, whose results are known."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, scale, added in (("1x-brighter", 1, 0.1), ("1x-darker", 1, -0.05), ("4x-plain", 4, 0.0)):
        net = networks.nearest(scale)
        with torch.no_grad():
            net.body[-1].bias.fill_(added)  # type: ignore[index,union-attr,operator]
        save(net, folder / f"{name}.pth")
    index(folder)
    config = Config(data_dir=tmp_path, weights_dir=folder, device="cpu", auto_limit_s=0)
    return Upscaler(config, Catalog.of(config))


def made(upscaler: Upscaler, tmp_path: Path, **params: Any) -> tuple[Any, Any]:
    """Context and samples of a job on a grey field of 100 with 40 × 30 pixels."""
    source = np.full((30, 40, 3), 100, np.uint8)
    ctx = upscaler.prepare(Params(**{"format": "png", **params}), encoded(source, "png"), tmp_path / "result")
    upscaler.run(ctx)
    return ctx, np.asarray(Image.open(tmp_path / "result"))


@pytest.mark.parametrize(
    ("params", "size", "level"),
    [
        ({"scale": 1.0, "model": "1x-brighter"}, (40, 30), 125.5),
        ({"scale": 0.5, "model": "1x-brighter"}, (20, 15), 125.5),
        ({"scale": 3.0, "model": "1x-brighter"}, (120, 90), 125.5),
        ({"scale": 1.0, "model": "1x-brighter, 1x-darker"}, (40, 30), 112.75),
        ({"scale": 4.0, "model": "1x-brighter,4x-plain"}, (160, 120), 125.5),
        ({"scale": 1.0, "model": "1x-brighter, 4x-plain"}, (40, 30), 125.5),
        ({"scale": 16.0 / 2, "model": "1x-darker, 1x-brighter, 4x-plain"}, (320, 240), 112.75),
        ({"scale": 1.0, "model": "4x-plain"}, (40, 30), 100),
        ({"scale": 1.0}, (40, 30), 100),
    ],
)
def test_networks_run_in_the_order_of_their_names(
    upscaler: Upscaler, tmp_path: Path, params: dict[str, Any], size: tuple[int, int], level: float
) -> None:
    ctx, result = made(upscaler, tmp_path, **params)
    assert result.shape[1::-1] == size
    assert abs(float(result.mean()) - level) <= 1
    names = [name.strip() for name in params.get("model", "none").split(",")]
    if params["scale"] <= 1:
        names = [name for name in names if not name.startswith("4x")] or ["none"]
    assert ctx.plan.model == ", ".join(names)
    if names != ["none"]:
        assert ctx.progress == 1
        assert (ctx.loaded.name, len(ctx.loaded.sha256)) == (", ".join(names), 64)


def test_only_the_last_may_enlarge(upscaler: Upscaler, tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="4x-plain enlarges ×4: of several networks only the last may"):
        made(upscaler, tmp_path, scale=4.0, model="4x-plain, 1x-darker")
    with pytest.raises(ModelNotFound, match="there is no model 'other'"):
        made(upscaler, tmp_path, scale=1.0, model="other, 1x-darker")


@pytest.mark.parametrize(("creativity", "level"), [(0.0, 125.5), (-1.0, 112.75), (-2.0, 100)])
def test_below_a_creativity_of_0_less_is_enhanced(
    upscaler: Upscaler, tmp_path: Path, creativity: float, level: float
) -> None:
    """At -1 half of it, at -2 nothing: fidelity-x4's result is mixed in at the source's size."""
    faithful = networks.nearest(4)
    save(faithful, tmp_path / "weights" / "fidelity-x4.pth")
    index(tmp_path / "weights")
    _, result = made(upscaler, tmp_path, scale=1.0, model="1x-brighter", creativity=creativity)
    assert result.shape == (30, 40, 3) and abs(float(result.mean()) - level) <= 1
