"""Cut patches out of images and normalise them; patches in raster order, inside a patch (y, x, channel), as in MAE."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from pipeline.errors import InputError
from pipeline.spec import Size, both_sides, spelt


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation, RGB, by which the encoder normalises u8 images: (x / 255 - mean) / std."""

    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD


IMAGENET = Normalisation()


def grid_of(images: Tensor, patch: int) -> tuple[int, int]:
    """Count patches of images [..., H, W], down and across. Raises InputError if `patch` does not divide the image."""
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise InputError(
            f"patches of {patch} pixels do not divide images of {height} x {width}; "
            f"the nearest sizes are {nearest_sizes(height, patch)} x {nearest_sizes(width, patch)}"
        )
    return height // patch, width // patch


def check_divides(patch: int, size: Size) -> None:
    """Raise InputError, with the nearest sizes, unless `patch` divides both sides of images of a size."""
    height, width = both_sides(size)
    if height % patch or width % patch:
        near = [nearest_sizes(side, patch) for side in ((height,) if height == width else (height, width))]
        raise InputError(
            f"patches of {patch} pixels do not divide images of {spelt(size)}; set the image size to {' x '.join(near)}"
        )


def nearest_sizes(size: int, patch: int) -> str:
    """Name the multiples of `patch` around `size`, for an error message: "224", or "208 or 224"."""
    below = size // patch * patch
    return " or ".join(str(near) for near in ([below] if below == size else [below, below + patch]) if near)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images, u8 or float [N, 3, H, W] in any storage order, into patches [N, L, patch² · 3] of the same type."""
    return gather_patches(images, None, None, patch)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Undo patchify: [N, L, patch² · 3] -> [N, 3, H, W]."""
    cells = patches.unflatten(2, (patch, patch, -1)).unflatten(1, grid)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def gather_patches(images: Tensor, rows: Tensor | None, ids: Tensor | None, patch: int) -> Tensor:
    """Gather the pixels of some patches of some images, [n, K, patch² · 3]; no other pixel is read.

    images  u8 or float [N, 3, H, W]
    rows    i64 [n]     which images; None means all
    ids     i64 [n, K]  which patches of each, raster order; None means all
    """
    down, across = grid_of(images, patch)
    cells = images.permute(0, 2, 3, 1).unflatten(2, (across, patch)).unflatten(1, (down, patch))
    cells = cells.permute(0, 1, 3, 2, 4, 5)  # N, down, across, y, x, channel: a view, nothing is copied
    if ids is not None:
        rows = torch.arange(images.shape[0], device=images.device) if rows is None else rows
        return cells[rows[:, None], ids // across, ids % across].flatten(2)
    if rows is not None:
        cells = cells[rows]
    return cells.flatten(3).flatten(1, 2)


def hidden_from_visible(visible: Tensor, patches: int) -> Tensor:
    """The ids that `visible` (i64 [N, K], distinct) leaves out of 0..patches-1: i64 [N, patches - K], ascending."""
    hidden = torch.ones(visible.shape[0], patches, dtype=torch.int8, device=visible.device).scatter(1, visible, 0)
    # a stable sort, as nonzero() would wait for the GPU to count the hidden patches, whose number is known here
    return hidden.sort(dim=1, descending=True, stable=True).indices[:, : patches - visible.shape[1]]


def normalised(pixels: Tensor, dtype: torch.dtype, normalisation: Normalisation = IMAGENET) -> Tensor:
    """Normalise u8 [..., patch² · 3] in `dtype`: (x / 255 - mean) / std; floats are taken as normalised already."""
    return scaled(pixels, *scale_and_shift(normalisation, pixels, dtype))


def scale_and_shift(normalisation: Normalisation, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What `scaled` takes for pixels such as `like` [..., patch² · 3]: two of `dtype`, [patch² · 3]; made once."""
    return _scale_and_shift(normalisation, like.shape[-1] // 3, dtype, like.device)


def scaled(pixels: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute shift + pixels · scale of u8 [..., patch² · 3], in the type of `scale`; floats stay as they are."""
    return torch.addcmul(shift, pixels.to(scale.dtype), scale) if pixels.dtype == torch.uint8 else pixels


def as_normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalise images, u8 [N, 3, H, W] -> f32, as the encoder does; floats are taken as normalised already."""
    lines = images.permute(0, 2, 3, 1).flatten(2)
    return normalised(lines, torch.float32, normalisation).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
def _scale_and_shift(normalisation: Normalisation, pixels: int, dtype: torch.dtype, device: torch.device):
    # not buffers of the model: those would lose digits in model.bfloat16() and appear in timm's state_dict
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (normalisation.mean, normalisation.std))
        pair = 1 / (255 * std), -mean / std
        return tuple(values.repeat(pixels).to(device=device, dtype=dtype) for values in pair)
