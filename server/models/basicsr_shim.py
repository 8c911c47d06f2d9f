"""Imports `basicsr`, whose networks we serve, and the packages that are built on it. No other file imports them.

This solves two problems.

basicsr 1.4.2 (2022) imports `rgb_to_grayscale` from `torchvision.transforms.functional_tensor`, a module that
torchvision removed in 0.17. Its function is now in `torchvision.transforms.functional`, so a module of the old name
with that function makes the import work. Other files that need basicsr, realesrgan or gfpgan import this file first
(see CONTRIBUTING.md).

And `import basicsr` loads the whole training framework (torchvision, SciPy, OpenCV: 280 MB of resident memory), of
which a worker needs two classes. `network_file` loads only the file that defines a network.
"""

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

_OLD_NAME = "torchvision.transforms.functional_tensor"


class _FunctionalTensor(types.ModuleType):
    """The removed module. Lazy, because torchvision alone is 180 MB."""

    def __getattr__(self, name: str) -> Any:
        if name != "rgb_to_grayscale":
            raise AttributeError(name)
        return importlib.import_module("torchvision.transforms.functional").rgb_to_grayscale


if _OLD_NAME not in sys.modules:
    sys.modules[_OLD_NAME] = _FunctionalTensor(_OLD_NAME)


_PACKAGES = (
    *("basicsr", "basicsr.archs", "basicsr.utils", "basicsr.ops"),
    *("gfpgan", "gfpgan.archs"),
    *("facexlib", "facexlib.detection", "facexlib.parsing", "facexlib.utils"),
)


def network_file(name: str, *, torchvision: bool = False) -> types.ModuleType:
    """The module of that dotted name, loaded without the `__init__` of its packages and without the unused imports of
    the networks' files. It is a private copy: it does not affect a later import of the package. `torchvision`: whether
    it needs torchvision."""
    with _bare_packages(torchvision), warnings.catch_warnings():
        # Warnings about old syntax in the packages, which are not about our code.
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@contextlib.contextmanager
def _bare_packages(torchvision: bool) -> Iterator[None]:
    roots = {name.split(".")[0] for name in _PACKAGES} | (set() if torchvision else {"torchvision"})
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in roots}
    for name in _PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = [str(_folder(name))]
        sys.modules[name] = package
    # basicsr/archs/arch_util.py imports these for deformable convolutions, which none of our networks have.
    sys.modules["basicsr.utils"].__dict__["get_root_logger"] = logging.getLogger
    unused = types.ModuleType("basicsr.ops.dcn")
    unused.__dict__.update(ModulatedDeformConvPack=nn.Module, modulated_deform_conv=None)
    sys.modules["basicsr.ops.dcn"] = unused
    if not torchvision:
        sys.modules["torchvision"] = types.ModuleType("torchvision")
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(before)


def _folder(package: str) -> Path:
    root, *rest = package.split(".")
    spec = importlib.machinery.PathFinder.find_spec(root)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {root} is not installed", name=root)
    return Path(spec.origin).parent.joinpath(*rest)


_rrdbnet = network_file("basicsr.archs.rrdbnet_arch")
RRDB: type[Any] = _rrdbnet.RRDB
RRDBNet: type[Any] = _rrdbnet.RRDBNet
SRVGGNetCompact: type[Any] = network_file("basicsr.archs.srvgg_arch").SRVGGNetCompact


@functools.cache
def gfpgan_v1_clean() -> type[Any]:
    """The networks for faces are imported at the first use: most workers never need them."""
    return network_file("gfpgan.archs.gfpganv1_clean_arch").GFPGANv1Clean  # type: ignore[no-any-return]


@functools.cache
def retina_face() -> type[Any]:
    return network_file("facexlib.detection.retinaface", torchvision=True).RetinaFace  # type: ignore[no-any-return]


@functools.cache
def parse_net() -> type[Any]:
    return network_file("facexlib.parsing.parsenet").ParseNet  # type: ignore[no-any-return]


__all__ = ["RRDB", "RRDBNet", "SRVGGNetCompact", "gfpgan_v1_clean", "network_file", "parse_net", "retina_face"]
