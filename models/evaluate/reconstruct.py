"""What a masked branch predicts at several mask ratios: pictures in the images' own colours, and squared errors."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from models.config.recipe import Recipe
from models.distributed.precision import precision
from models.encoder.patches import gather_patches, hidden_from_visible, normalised, patchify, unpatchify
from models.encoder.vit import normalisation_of
from models.evaluate.base import Evaluator, Result
from models.load import Loaded
from models.method import Method
from models.reporting.render import Picture
from pipeline import rng
from pipeline.errors import InputError
from pipeline.preview import mask, sheet, spread
from pipeline.spec import Mask
from pipeline.store.beton import Beton
from pipeline.text import percent
from pipeline.views import masks
from pipeline.views.masks.random import random_mask

RATIOS = (0.5, 0.75, 0.9)
SIDE = 96


class Filled(NamedTuple):
    """Of N images: ids of the visible and the hidden patches i64 [N, K], [N, M]; pixels predicted for the hidden ones,
    and what is no prediction but needs none: f32 [N, M, patch² · 3], 0..255 and beyond."""

    visible: np.ndarray
    hidden: Tensor
    predicted: Tensor
    blank: Tensor


@torch.no_grad()
def fill(method: Method, images: Tensor, ratio: float, keys: np.ndarray) -> Filled | None:
    """Hide patches at random, for each image (u8 [N, 3, S, S]) by its key (u64 [N]), and have them predicted; None
    where a prediction is no picture.

    Normalised targets are put back on each patch's own mean and spread, which the network was never told; `blank` is
    then that mean, and for pixels the mean colour of the image's visible patches.
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
    """Of images ids i64 [N]: u64 [N]; what is hidden depends on nothing else."""
    return rng.keys(seed, 0, ids, rng.MASK)


@torch.no_grad()
def reconstruct(
    method: Method, images: Tensor, ratio: float, seed: int = 0, ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """What the encoder saw and what the decoder made of it: two u8 [N, S, S, 3] for images u8 [N, 3, S, S]; None where
    a prediction is no picture. Visible patches are shown as they are.

    ids  i64 [N], what the masks depend on; 0 to N - 1 when absent
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
    recipe: Recipe,
    method: Method,
    images: Tensor,
    ratios: Sequence[float],
    seed: int = 0,
    ids: np.ndarray | None = None,
) -> Picture | None:
    """Images, and for each mask ratio what was left of them and what came back; ratios that leave nothing are left out.

    None where a prediction is no picture.
    """
    shown, headings = [list(images.permute(0, 2, 3, 1).cpu().numpy())], ["image"]
    patches = (images.shape[-1] // method.branch.patch) ** 2
    for ratio in (each for each in ratios if patches * (1 - each) >= 1):
        with precision(recipe.run, images.device):
            made = reconstruct(method, images, ratio, seed, ids)
        if made is None:
            return None
        shown += [list(pictures) for pictures in made]
        headings += [f"{percent(ratio, decimals=0)} hidden", "predicted"]
    caption = "Images in their own colours; visible patches are shown as they are."
    return Picture("Reconstructions", caption, png([list(line) for line in zip(*shown, strict=True)], tuple(headings)))


def png(lines: list[list[np.ndarray]], headings: tuple[str, ...]) -> bytes:
    """A sheet of pictures u8 [h, w, 3] as a file."""
    file = io.BytesIO()
    sheet(lines, headings, SIDE).save(file, "PNG")
    return file.getvalue()


@final
@dataclass(frozen=True)
class Reconstructions(Evaluator):
    """Pictures and squared errors of the masked branch's predictions, at several mask ratios."""

    ratios: tuple[float, ...] = RATIOS
    """Shares of patches that are hidden, at random."""
    pictures: int = 8
    """Images on the page, spread over the file."""
    chosen: tuple[int, ...] | None = None
    """Images on the page, by their numbers in the file."""
    measured: int = 1024
    """Images that the error is a mean over, spread over the file."""
    seed: int = 0
    """Of the masks."""

    def run(self, loaded: Loaded) -> Result:
        """mse_R: mean squared error of hidden pixels, which are 0 to 1, at ratio R; blank_R: of saying nothing."""
        check(loaded, self)
        beton = self.open(loaded)
        ids = self.shown(beton)
        images = torch.cat(list(self.images(loaded, beton, ids)))
        drawn = picture(loaded.recipe, loaded.method, images, self.ratios, self.seed, ids)
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
        """Sums over images of their mean squared errors, predicted and blank: f64 [ratios, 2], on the device."""
        found = []
        for ratio in self.ratios:
            with precision(loaded.recipe.run, images.device):
                filled = fill(loaded.method, images, ratio, keys_of(ids, self.seed))
            truth = gather_patches(images, None, filled.hidden, loaded.method.branch.patch).float()
            each = [
                (guess - truth).double().div(255).square().mean((1, 2)) for guess in (filled.predicted, filled.blank)
            ]
            found.append(torch.stack(each).sum(1))
        return torch.stack(found)

    def shown(self, beton: Beton) -> np.ndarray:
        """Ids i64 [N] of the images on the page. Raises InputError for one that the file does not have."""
        if self.chosen is None:
            return spread(beton, self.pictures)
        wrong = [i for i in self.chosen if not 0 <= i < beton.n]
        if wrong or not self.chosen:
            raise InputError(
                f"--chosen: expected numbers from 0 to {beton.n - 1}, the images of {beton.path}, got {wrong}"
            )
        return np.array(self.chosen, np.int64)


def check(loaded: Loaded, asked: Reconstructions) -> None:
    """Raise InputError for a run without a masked branch, or numbers that mean nothing."""
    branch = loaded.method.branch
    if branch is None:
        raise InputError(
            f"{loaded.path} was trained by {loaded.recipe.name}, which has no masked branch; give a run of mae, "
            "semi_mae or another method that predicts patches"
        )
    if not asked.ratios or asked.pictures < 1 or asked.measured < 1 or asked.batch < 1:
        raise InputError("expected a ratio or more of --ratios, and 1 or more of --pictures, --measured and --batch")
    for ratio in asked.ratios:
        masks.visible_count(Mask(ratio=ratio), loaded.recipe.data.size // branch.patch)


def _to_pixels(predicted: Tensor, normalisation) -> Tensor:
    repeats = predicted.shape[-1] // 3
    mean, std = (
        torch.tensor(v, device=predicted.device).repeat(repeats) for v in (normalisation.mean, normalisation.std)
    )
    return (predicted * std + mean) * 255
