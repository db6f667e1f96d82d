"""Predictions of a masked branch at several mask ratios: pictures in the images' own colours, and squared errors."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from models.distributed.precision import measuring
from models.encoder.patches import gather_patches, hidden_from_visible, normalised, patchify, unpatchify
from models.encoder.vit import normalisation_of
from models.evaluate.evaluator import Evaluator, Result
from models.load import Loaded
from models.method import Method
from models.reporting.render import Picture
from pipeline import rng
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, check_bounds
from pipeline.preview.picture import sheet
from pipeline.preview.views import mask, spread
from pipeline.spec import Mask
from pipeline.store.beton import Beton
from pipeline.text import percent
from pipeline.views import masks
from pipeline.views.masks.random import random_mask

RATIOS = (0.5, 0.75, 0.9)
SIDE = 96


class Filled(NamedTuple):
    """Hidden patches of N images and two fillings of them.

    visible, hidden  ids of the patches, i64 [N, K] and [N, M]
    predicted        pixels that the network predicts for the hidden ones, f32 [N, M, patch² · 3], 0..255 and beyond
    blank            pixels that need no network, of the same shape, to compare with
    """

    visible: np.ndarray
    hidden: Tensor
    predicted: Tensor
    blank: Tensor


@torch.no_grad()
def fill(method: Method, images: Tensor, ratio: float, keys: np.ndarray) -> Filled | None:
    """Hide patches of images (u8 [N, 3, S, S]) at random, by the images' keys (u64 [N]), and predict them.

    Normalised targets are scaled back by each patch's own mean and spread, which the network does not predict; `blank`
    is then that mean, and for pixels the mean colour of the image's visible patches. Returns None where a prediction is
    no picture.
    """
    branch, patch = method.branch, method.branch.patch
    grid = images.shape[-1] // patch
    visible_ids = random_mask(keys, grid, masks.visible_count(Mask(ratio=ratio), grid))
    visible = torch.from_numpy(visible_ids).to(images.device)
    hidden = hidden_from_visible(visible, grid * grid)
    predicted = branch.predict(method.encoder, images, visible)
    if predicted is None:
        return None
    normalisation = normalisation_of(method.encoder)
    if branch.settings.target == "norm_pix":
        truth = normalised(gather_patches(images, None, hidden, patch), torch.float32, normalisation)
        variance, mean = torch.var_mean(truth, dim=-1, keepdim=True)
        blank = _to_pixels(mean.expand_as(predicted), normalisation)
        return Filled(
            visible_ids, hidden, _to_pixels(predicted * (variance + 1e-6).sqrt() + mean, normalisation), blank
        )
    seen = gather_patches(images, None, visible, patch).float().unflatten(-1, (-1, 3))
    blank = seen.mean((1, 2))[:, None].repeat(1, 1, patch * patch).expand_as(predicted)
    return Filled(visible_ids, hidden, _to_pixels(predicted, normalisation), blank)


def keys_of(ids: np.ndarray, seed: int) -> np.ndarray:
    """Return the keys u64 [N] of images ids i64 [N]; which patches are hidden depends on key and ratio alone."""
    return rng.keys(seed, 0, ids, rng.MASK)


@torch.no_grad()
def reconstruct(
    method: Method, images: Tensor, ratio: float, seed: int = 0, ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw images (u8 [N, 3, S, S]) masked, and with the predictions in place of hidden patches: two u8 [N, S, S, 3].

    ids  i64 [N], on which the masks depend; 0 to N - 1 when absent

    Visible patches are drawn as they are. Returns None where a prediction is no picture.
    """
    patch = method.branch.patch
    filled = fill(method, images, ratio, keys_of(np.arange(len(images)) if ids is None else ids, seed))
    if filled is None:
        return None
    pixels = patchify(images, patch).float()
    pixels.scatter_(1, filled.hidden[..., None].expand_as(filled.predicted), filled.predicted)
    grid = images.shape[-1] // patch
    made = unpatchify(pixels, (grid, grid), patch).clamp(0, 255).round().to(torch.uint8)
    originals = images.permute(0, 2, 3, 1).cpu().numpy()
    seen = np.stack([mask(image, ids, patch) for image, ids in zip(originals, filled.visible, strict=True)])
    return seen, made.permute(0, 2, 3, 1).cpu().numpy()


def picture(
    method: Method,
    images: Tensor,
    ratios: Sequence[float],
    seed: int = 0,
    ids: np.ndarray | None = None,
) -> Picture | None:
    """Make a picture of images (u8 [N, 3, S, S]), masked at each ratio, and predicted.

    Ratios that leave no patch visible are left out. Returns None where a prediction is no picture.
    """
    columns, headings = [list(images.permute(0, 2, 3, 1).cpu().numpy())], ["image"]
    patches = (images.shape[-1] // method.branch.patch) ** 2
    for ratio in (each for each in ratios if patches * (1 - each) >= 1):
        with measuring(images.device):
            made = reconstruct(method, images, ratio, seed, ids)
        if made is None:
            return None
        columns += [list(pictures) for pictures in made]
        headings += [f"{percent(ratio, decimals=0)} hidden", "predicted"]
    caption = "Images in their own colours; visible patches are shown as they are."
    lines = [list(line) for line in zip(*columns, strict=True)]
    return Picture("Reconstructions", caption, png(lines, tuple(headings)))


def png(lines: list[list[np.ndarray]], headings: tuple[str, ...]) -> bytes:
    """Encode a sheet of pictures u8 [h, w, 3], line by line, as a PNG file."""
    file = io.BytesIO()
    sheet(lines, headings, SIDE).save(file, "PNG")
    return file.getvalue()


@final
@dataclass(frozen=True)
class Reconstructions(Evaluator):
    """Pictures and squared errors of the masked branch's predictions, at several mask ratios."""

    ratios: tuple[float, ...] = RATIOS
    """Shares of patches that are hidden, at random."""
    pictures: Annotated[int, AT_LEAST_1] = 8
    """Images on the page, spread over the file."""
    chosen: tuple[int, ...] | None = None
    """Images on the page, by their numbers in the file."""
    measured: Annotated[int, AT_LEAST_1] = 1024
    """Images over which the error is averaged, spread over the file."""
    seed: int = 0
    """Of the masks."""

    def run(self, loaded: Loaded) -> Result:
        """Measure mse_R, the mean squared error of hidden pixels, 0 to 1, at ratio R, and blank_R of blank ones."""
        check(loaded, self)
        beton = self.open(loaded)
        ids = self.shown(beton)
        images = torch.cat(list(self.images(loaded, beton, ids)))
        drawn = picture(loaded.method, images, self.ratios, self.seed, ids)
        if drawn is None:
            target = loaded.method.branch.settings.target
            raise InputError(f"{loaded.path} predicts {target}, of which there is no picture; give a run on pixels")
        ids = spread(beton, self.measured)
        sums = torch.zeros(len(self.ratios), 2, dtype=torch.float64, device=images.device)
        for first, batch in zip(range(0, len(ids), self.batch), self.images(loaded, beton, ids), strict=True):
            sums += self.errors(loaded, batch, ids[first : first + self.batch])
        values = {"images": float(len(ids))}
        for ratio, (mse, blank) in zip(self.ratios, (sums / len(ids)).tolist(), strict=True):
            values |= {f"mse_{ratio:g}": mse, f"blank_{ratio:g}": blank}
        return Result(values, [drawn])

    def errors(self, loaded: Loaded, images: Tensor, ids: np.ndarray) -> Tensor:
        """Sum the images' mean squared errors, of predicted and of blank patches: f64 [ratios, 2], on the device."""
        found = []
        for ratio in self.ratios:
            with measuring(images.device):
                filled = fill(loaded.method, images, ratio, keys_of(ids, self.seed))
            assert filled is not None  # `run` has drawn such a picture
            truth = gather_patches(images, None, filled.hidden, loaded.method.branch.patch).float()
            each = [
                (pixels - truth).double().div(255).square().mean((1, 2)) for pixels in (filled.predicted, filled.blank)
            ]
            found.append(torch.stack(each).sum(1))
        return torch.stack(found)

    def shown(self, beton: Beton) -> np.ndarray:
        """Return the ids i64 [N] of the images on the page. Raises InputError for one that the file does not have."""
        if self.chosen is None:
            return spread(beton, self.pictures)
        wrong = [i for i in self.chosen if not 0 <= i < beton.n]
        if wrong or not self.chosen:
            raise InputError(
                f"--chosen: expected numbers from 0 to {beton.n - 1}, the images of {beton.path}, got {wrong}"
            )
        return np.array(self.chosen, np.int64)


def check(loaded: Loaded, evaluator: Reconstructions) -> None:
    """Raise InputError for a run without a masked branch, and for flags outside their bounds."""
    branch = loaded.method.branch
    if branch is None:
        raise InputError(
            f"{loaded.path} was trained by {loaded.recipe.name}, which has no masked branch; give a run of mae, "
            "semi_mae or another method that predicts patches"
        )
    check_bounds(evaluator, "--")
    if not evaluator.ratios:
        raise InputError("--ratios: expected a mask ratio or more, got none")
    for ratio in evaluator.ratios:
        masks.visible_count(Mask(ratio=ratio), loaded.recipe.data.size // branch.patch)


def _to_pixels(predicted: Tensor, normalisation) -> Tensor:
    """Convert normalised values f32 [..., patch² · 3] to pixels, 0..255."""
    repeats = predicted.shape[-1] // 3
    mean, std = (
        torch.tensor(v, device=predicted.device).repeat(repeats) for v in (normalisation.mean, normalisation.std)
    )
    return (predicted * std + mean) * 255
