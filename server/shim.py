"""The one door to `basicsr`, whose networks we serve.

basicsr 1.4.2 (2022) imports `rgb_to_grayscale` from `torchvision.transforms.functional_tensor`, a module that
torchvision removed in 0.17. Its function lives on in `torchvision.transforms.functional`, so a module of the old name
that holds just that one name makes the package import again. Nothing else in this project imports basicsr,
realesrgan or gfpgan by itself: whoever needs them imports this file first (see CONTRIBUTING.md).
"""

import sys
import types
import warnings

import torchvision.transforms.functional

_OLD_NAME = "torchvision.transforms.functional_tensor"

if _OLD_NAME not in sys.modules:
    _module = types.ModuleType(_OLD_NAME)
    _module.__dict__["rgb_to_grayscale"] = torchvision.transforms.functional.rgb_to_grayscale
    sys.modules[_OLD_NAME] = _module

with warnings.catch_warnings():
    # Old syntax inside the package, which nobody will change; it must not look like ours.
    warnings.simplefilter("ignore")
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from basicsr.archs.srvgg_arch import SRVGGNetCompact

__all__ = ["RRDBNet", "SRVGGNetCompact"]
