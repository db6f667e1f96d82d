"""Random batches in the shapes of a recipe's batches, so that a benchmark of a step waits for no data.

batch = synthetic_batch(recipe, images=64, classes=1000, device=torch.device("cuda"))
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config.recipe import Recipe
from models.factory import method_class
from pipeline import rng
from pipeline.batch import Batch, Boxes, Dense, Labelled, Unlabelled
from pipeline.sampling.sampler import shares
from pipeline.spec import both_sides
from pipeline.views import masks

COLOURS = 4
"""Side of the random image that is enlarged: images differ as a whole, or a new network is equally sure of all."""
OBJECTS = 7
"""Boxes of an image, as COCO's images have in the mean."""


def synthetic_batch(
    recipe: Recipe, images: int, classes: int, device: torch.device, *, labels_only: bool = False
) -> Batch:
    """Make a (micro-)batch of `images` images, labelled and unlabelled in the recipe's ratio, or all of them labelled.

    Raises InputError where one of the parts would be empty.
    """
    needs = method_class(recipe).needs(recipe)
    counts = (images, 0) if labels_only else shares(images, recipe.data.ratio, needs.labelled, needs.unlabelled)
    return random_batch(recipe, *counts, classes, device)


def random_batch(recipe: Recipe, labelled: int, unlabelled: int, classes: int, device: torch.device) -> Batch:
    """Make a batch of so many images, with the views and masks that the recipe's method reads, from seed 0.

    Images are u8 [N, 3, H, W], channels last in memory as the loader's are. `device` may be meta. Raises InputError for
    a mask that would leave nothing visible or nothing hidden.
    """
    data, needs = recipe.data, method_class(recipe).needs(recipe)
    generator = torch.Generator().manual_seed(0)

    def view(n: int) -> Tensor:
        colours = torch.randint(256, (n, 3, COLOURS, COLOURS), dtype=torch.uint8, generator=generator)
        enlarged = F.interpolate(colours, both_sides(data.size))
        return enlarged.contiguous(memory_format=torch.channels_last).to(device)

    def mask(n: int, needed: bool) -> list[Tensor | None]:
        if not needed:
            return [None, None]
        keys = rng.keys(0, 0, np.arange(n), rng.MASK)
        height, width = (side // recipe.encoder.patch for side in both_sides(data.size))
        drawn = masks.draw(data.mask, keys, (height, width))
        return [None if ids is None else torch.from_numpy(ids).to(device) for ids in drawn]

    known = unknown = None
    if needs.pixel_labels is not None:
        pixels = torch.randint(classes, (labelled, *both_sides(data.size)), dtype=torch.uint8, generator=generator)
        dense = Dense(torch.arange(labelled, device=device), view(labelled), pixels.to(device))
        return Batch(0, None, None, dense).check()
    if needs.box_labels is not None:
        return Batch(0, None, None, boxes=_boxes(view(labelled), classes, needs.box_labels.masks)).check()
    if labelled:
        labels = torch.randint(classes, (labelled,), generator=generator).to(device)
        ids = torch.arange(labelled, device=device)
        known = Labelled(ids, view(labelled), labels, *mask(labelled, needs.labelled_visible))
    if unlabelled:
        ids = torch.zeros(unlabelled, dtype=torch.int64, device=device)  # an image that any training file has
        weak = view(unlabelled)
        strong = view(unlabelled) if needs.strong else None
        unknown = Unlabelled(ids, weak, strong, *mask(unlabelled, needs.unlabelled_visible))
    return Batch(0, known, unknown).check()


def _boxes(images: Tensor, classes: int, masks: bool) -> Boxes:
    """Objects of each image: OBJECTS boxes of random places and classes, whose masks they fill."""
    n, device = len(images), images.device
    generator = torch.Generator().manual_seed(1)
    height, width = images.shape[2:]
    corners = torch.rand(n * OBJECTS, 2, generator=generator) * 0.6
    sides = 0.1 + torch.rand(n * OBJECTS, 2, generator=generator) * 0.3
    boxes = torch.cat([corners, corners + sides], 1) * torch.tensor([width, height] * 2)
    filled = None
    if masks:
        left, top, right, low = boxes.round().long().T[..., None, None].unbind(0)
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        filled = ((columns >= left) & (columns < right) & (rows >= top) & (rows < low)).to(device)
    return Boxes(
        torch.arange(n, device=device),
        images,
        torch.tensor([[height, width]] * n, device=device),
        torch.full((n,), OBJECTS, device=device),
        boxes.to(device),
        torch.randint(classes, (n * OBJECTS,), generator=generator).to(device),
        filled,
    )
