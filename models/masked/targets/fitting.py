"""Read the patches that a target is fitted on: of images of a .beton, cut as a recipe's weak view cuts them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor

from models.config.resolve import resolve
from models.encoder.patches import grid_of, patchify
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.open import open_data
from pipeline.preview.views import spread
from pipeline.spec import Data, Size, both_sides
from pipeline.store.beton import Beton

BATCH = 64


@dataclass(frozen=True)
class Sample:
    """Which patches a target is fitted on."""

    path: Annotated[str, tyro.conf.Positional]
    """A .beton file."""
    recipe: str = "mae:in1k_b16"
    """Its weak view cuts the images, as in training."""
    size: Size | None = None
    """Size of the view, in pixels, a side or height and width; the recipe's when absent."""
    patch: int | None = None
    """Side of a patch, in pixels; the recipe's when absent."""
    images: int = 5000
    """Images to read, spread over the file; about a million patches by default."""


class Patches(NamedTuple):
    """Patches of `side` pixels, `count` in all; `parts` yields their pixels once, u8 [n, side² · 3] for some images."""

    side: int
    count: int
    parts: Iterator[Tensor]


def opened(sample: Sample) -> Patches:
    """Open the patches that a command line names.

    for part in opened(Sample("data/digits/train.beton", "mae:digits")).parts: ...

    Raises InputError if the file or the recipe is none, or the patch does not divide the view.
    """
    if min(sample.images, sample.patch or 1, *both_sides(sample.size or 1)) < 1:
        raise InputError(
            f"--images, --size and --patch are 1 or more, got {sample.images}, {sample.size}, {sample.patch}"
        )
    recipe = resolve(sample.recipe, [])
    size, patch = sample.size or recipe.data.size, sample.patch or recipe.encoder.patch
    down, across = grid_of(torch.empty(0, 3, *both_sides(size)), patch)
    data = replace(recipe.data, size=size, sizes=None, evaluate=recipe.data.weak, backend="ffcv", views_on="cpu")
    beton = open_data(replace(data, root=str(Path(sample.path).parent)), Path(sample.path).name)
    ids = spread(beton, sample.images)
    return Patches(patch, down * across * len(ids), _parts(data, beton, ids, patch))


def _parts(data: Data, beton: Beton, ids: np.ndarray, patch: int) -> Iterator[Tensor]:
    for images in sweep(data, beton, torch.device("cpu"), ids, BATCH):
        yield patchify(images, patch).flatten(0, 1)
