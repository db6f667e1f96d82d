"""The batch that the loader hands to a method.

batch.labelled.images     # u8 [N, 3, H, W]
batch.unlabelled.weak     # u8 [M, 3, H, W]
batch.dense.classes       # u8 [N, H, W], of each pixel of batch.dense.images
batch.boxes.boxes         # f32 [M, 4], of the objects of batch.boxes.images, image after image
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

DIMENSIONS = {"visible": (2, 3), "hidden": (3,)}  # of a tensor that is no image; 1 for every other
IGNORED = 255
"""Class, in a batch, of pixels that have none."""


@dataclass(frozen=True)
class Labelled:
    """Images whose labels may be seen: ids i64 [N], images u8 [N, 3, H, W], labels i64 [N].

    visible  i64 [N, K]      patches of `images` that the masked branch may see; [N, W, K] in W windows of each image
    hidden   i64 [N, W, M]   the windows' other patches; None without windows, where the hidden patches are the rest
    """

    ids: Tensor
    images: Tensor
    labels: Tensor
    visible: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels: ids i64 [N], weak and strong u8 [N, 3, H, W].

    visible  i64 [N, K]      patches of `weak` that the masked branch may see; [N, W, K] in W windows of each image
    hidden   i64 [N, W, M]   the windows' other patches; None without windows, where the hidden patches are the rest
    """

    ids: Tensor
    weak: Tensor
    strong: Tensor | None = None
    visible: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Dense:
    """Images whose pixels have classes: ids i64 [N], images u8 [N, 3, H, W], classes u8 [N, H, W], IGNORED for none."""

    ids: Tensor
    images: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Boxes:
    """Images with boxes around objects: ids i64 [N], images u8 [N, 3, H, W], and M objects, image after image.

    sides    i64 [N, 2]       height and width of what of an image is no padding, which is below and to the right
    counts   i64 [N]          objects of each image
    boxes    f32 [M, 4]       left, top, right and lower edge in pixels; the image's left upper corner is at 0, 0
    classes  i64 [M]          of each object, from 0
    masks    bool [M, H, W]   pixels of each object; None where none are learned
    """

    ids: Tensor
    images: Tensor
    sides: Tensor
    counts: Tensor
    boxes: Tensor
    classes: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Images of one step (or micro-batch) on the device; a part that the method does not need is None."""

    step: int
    labelled: Labelled | None
    unlabelled: Unlabelled | None
    dense: Dense | None = None
    boxes: Boxes | None = None

    @property
    def parts(self) -> dict[str, "Labelled | Unlabelled | Dense | Boxes"]:
        """Return the parts that there are, by name."""
        parts = {"labelled": self.labelled, "unlabelled": self.unlabelled, "dense": self.dense, "boxes": self.boxes}
        return {name: part for name, part in parts.items() if part is not None}

    def check(self) -> "Batch":
        """Return self if every tensor has its dtype and shape. Raises TypeError naming the first that has not."""
        for name, part in self.parts.items():
            _check(name, part)
        return self


def _check(name: str, part: Labelled | Unlabelled | Dense | Boxes) -> None:
    n = part.ids.shape[0]
    objects = _of_objects(part) if isinstance(part, Boxes) else {}
    for field in fields(part):
        tensor = getattr(part, field.name)
        if tensor is None:
            continue
        image = field.name in ("images", "weak", "strong")
        dtype, shape = (torch.uint8, (n, 3)) if image else (torch.int64, (n,))
        dimensions = (4,) if image else DIMENSIONS.get(field.name, (1,))
        if field.name == "classes" and isinstance(part, Dense):
            dtype, shape, dimensions = torch.uint8, (n, *part.images.shape[2:]), (3,)
        dtype, shape, dimensions = objects.get(field.name, (dtype, shape, dimensions))
        if tensor.dtype != dtype or tuple(tensor.shape[: len(shape)]) != shape or tensor.ndim not in dimensions:
            raise TypeError(
                f"batch.{name}.{field.name}: expected {dtype} {list(shape)} with {dimensions[0]} dimensions, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )


def _of_objects(part: Boxes) -> dict[str, tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]]:
    """What is expected of tensors with a row an object: dtype, shape and number of dimensions."""
    m = part.boxes.shape[0]
    return {
        "sides": (torch.int64, (part.ids.shape[0], 2), (2,)),
        "boxes": (torch.float32, (m, 4), (2,)),
        "classes": (torch.int64, (m,), (1,)),
        "masks": (torch.bool, (m, *part.images.shape[2:]), (3,)),
    }
