"""The packed file: all training and validation pictures of a run, for a machine with numpy and torch alone.

A `.npz` of uint8 arrays, N×3×H×W. Each sample is kept as its difference to its left neighbour, red and blue first as
their difference to green (PNG's filter and WebP's colour transform): a third of the size instead of half, lossless.
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.dataset import Pixels
from training.validation import Validation


@dataclass(frozen=True)
class Packed:
    train: Pixels
    """N×H×W×3, as are all here: crops of pictures."""
    synthetic: Pixels
    """Crops of synthetic pages; the file calls them "drawn"."""
    validation: Validation

    def save(self, path: Path) -> None:
        """Atomic. The same content gives the same bytes."""
        truths, small = zip(*((hr, lr) for lr, hr in self.validation.clean), strict=True)
        arrays = {
            "train": self.train,
            "drawn": self.synthetic,
            "validation_hr": np.stack(truths),
            "validation_clean": np.stack(small),
            "validation_degraded": np.stack([lr for lr, _ in self.validation.degraded]),
            "validation_large": np.stack(self.validation.large),
        }
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file, allow_pickle=False, **{name: filtered(pictures) for name, pictures in arrays.items()}
            )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> "Packed":
        if not zipfile.is_zipfile(path):
            raise SystemExit(f"{path} is neither a folder of pictures nor a packed file of training.pack")
        with np.load(path) as file:
            arrays = {name: restored(file[name]) for name in file.files}
        hr = arrays["validation_hr"]
        validation = Validation(
            clean=list(zip(arrays["validation_clean"], hr, strict=True)),
            degraded=list(zip(arrays["validation_degraded"], hr, strict=True)),
            large=list(arrays["validation_large"]),
        )
        return cls(arrays["train"], arrays["drawn"], validation)


def filtered(pictures: Pixels) -> Pixels:
    """N×H×W×3 → N×3×H×W of differences, modulo 256."""
    planes = np.moveaxis(pictures, 3, 1).copy()
    planes[:, ::2] -= planes[:, 1:2]
    planes[..., 1:] -= planes[..., :-1].copy()
    return planes


def restored(planes: NDArray[Any]) -> Pixels:
    """The inverse of `filtered`."""
    sums = np.cumsum(planes, axis=3, dtype=np.uint8)
    sums[:, ::2] += sums[:, 1:2]
    return np.ascontiguousarray(np.moveaxis(sums, 1, 3))
