"""Draw the default views of real images beside the originals: weak, strong, masked.

pictures = rows(beton, Data(size=224), patch=16, ids=spread(beton, 8))
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline.backends.pixels import read_pixels
from pipeline.errors import InputError
from pipeline.open import open_backend
from pipeline.preview.picture import COLOURS
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data, both_sides, spelt
from pipeline.store.beton import Beton
from pipeline.train_data import unlabelled_spec
from pipeline.views.plan import draw

COLUMNS = ("original", "weak", "strong", "masked")
HIDDEN = 118  # grey of a hidden patch
PALE = 4  # how much weaker an image is outside a window
OUTLINE = 125  # pixels of an image to one of its boxes' outlines: a small image has none


def rows(
    beton: Beton, data: Data, patch: int, ids: np.ndarray, seed: int = 0, columns: Sequence[str] = COLUMNS
) -> list[list[np.ndarray]]:
    """For each image (ids i64 [N]) the pictures u8 [h, w, 3] of `columns`, as the loader makes them in the first pass.

    Boxes on the original show where the weak and the strong view were cut.
    Raises InputError if the patch does not divide the view.
    """
    if "masked" in columns and any(side % patch for side in both_sides(data.size)):
        raise InputError(
            f"patches of {patch} pixels do not divide views of {spelt(data.size)}; choose another patch or size"
        )
    backend = open_backend(replace(data, backend="ffcv", views_on="cpu"), beton, torch.device("cpu"))
    try:
        wanted = unlabelled_spec(data, patch, strong=True, visible="masked" in columns)
        samples = SampleIds(ids, np.zeros_like(ids))
        plan = draw(wanted, samples, beton.heights[ids], beton.widths[ids], seed)
        weak, strong = (view.permute(0, 2, 3, 1).numpy() for view in backend.start(plan)())
    finally:
        backend.close()
    found = (read_pixels(beton, i) for i in ids)
    originals = [image for image in found if image is not None]  # all: their views were made
    for v, name in enumerate(("weak", "strong")):
        if name in columns:
            originals = [outlined(*each, COLOURS[name]) for each in zip(originals, plan.params.boxes[v], strict=True)]
    made = {"original": originals, "weak": weak, "strong": strong}
    if "masked" in columns:
        hidden = [None] * len(ids) if plan.hidden is None else plan.hidden
        assert plan.visible is not None  # it was asked for
        made["masked"] = [masked(*each, patch) for each in zip(weak, plan.visible, hidden, strict=True)]
    return [list(row) for row in zip(*(made[name] for name in columns), strict=True)]


def spread(beton: Beton, images: int) -> np.ndarray:
    """Ids i64 [N] of up to so many images, from the first to the last."""
    return np.linspace(0, beton.n - 1, min(images, beton.n)).astype(np.int64)


def outlined(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The image u8 [h, w, 3] with the outline of a box i32 [4] (top, left, height, width)."""
    line = max(image.shape) // OUTLINE
    if not line:
        return image
    page, (top, left, height, width) = Image.fromarray(image), box.tolist()
    ImageDraw.Draw(page).rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=line)
    return np.asarray(page)


def mask(image: np.ndarray, visible: np.ndarray, patch: int) -> np.ndarray:
    """The image u8 [H, W, 3] with every patch grey that is not in `visible` (i64 [K])."""
    grid = image.shape[0] // patch, image.shape[1] // patch
    shown = np.zeros(grid, bool)
    shown.ravel()[visible] = True
    shown = shown.repeat(patch, 0).repeat(patch, 1)
    return np.where(shown[..., None], image, np.uint8(HIDDEN))


def masked(image: np.ndarray, visible: np.ndarray, hidden: np.ndarray | None, patch: int) -> np.ndarray:
    """The image as its mask leaves it: `mask`; of W windows (visible i64 [W, K], hidden i64 [W, M]) W small pictures,
    each with the image pale outside its window, which the encoder sees by itself."""
    if hidden is None:
        return mask(image, visible, patch)
    pale = (255 - (255 - image.astype(np.int16)) // PALE).astype(np.uint8)
    tiles = []
    for seen, unseen in zip(visible, hidden, strict=True):
        inside = mask(np.full_like(image, 1), np.append(seen, unseen), patch) == 1
        tiles.append(np.where(inside, mask(image, seen, patch), pale))
    across = int(np.ceil(np.sqrt(len(tiles))))
    tiles += [np.full_like(image, 255)] * (-len(tiles) % across)
    gap = len(image) // 16
    framed = [np.pad(tile, ((0, gap), (0, gap), (0, 0)), constant_values=255) for tile in tiles]
    lines = [np.concatenate(framed[i : i + across], 1) for i in range(0, len(framed), across)]
    return np.concatenate(lines)[: -gap or None, : -gap or None]
