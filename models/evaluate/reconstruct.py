"""Predictions of a masked branch under several masks: pictures in the images' own colours, and squared errors."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, prod
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from models.encoder.patches import (
    Normalisation,
    gather_patches,
    grid_of,
    hidden_from_visible,
    normalised,
    patchify,
    unpatchify,
)
from models.encoder.vit import normalisation_of
from models.evaluate.evaluator import Evaluator, Result
from models.full_precision import full_precision
from models.load import Loaded, chosen_device
from models.method import Method
from models.pretrained.find import is_run
from models.pretrained.masked_model import Assumed, load_masked_model
from models.reporting.render import Picture, Text
from pipeline import rng
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, check_bounds
from pipeline.preview.picture import sheet
from pipeline.preview.views import mask, spread
from pipeline.spec import Mask
from pipeline.store.beton import Beton
from pipeline.text import did_you_mean, percent
from pipeline.views import masks

RATIOS = (0.5, 0.75, 0.9)
FIGURE_6 = {"random": 0.75, "block": 0.5, "grid": 0.75}
"""Ratios at which MAE's Figure 6 shows its three kinds of mask."""
KINDS = ("random", "block", "grid", "unit")
"""Kinds of mask that are drawn over a whole image; those in windows are not."""
SIDE, LARGEST = 96, 160
"""Side of a picture of small and of large images on the page, in pixels."""
TRUE_SCALE, VISIBLE_SCALE = "true_scale", "visible_scale"
HEADINGS = {"": "predicted", TRUE_SCALE: "true scale", VISIBLE_SCALE: "visible scale"}
SCALES = (
    "Target norm_pix is predicted in each patch's own scale, and the network predicts neither a patch's mean nor its "
    "spread. True scale: the prediction with mean and spread of the true hidden patch, which takes brightness and "
    "contrast from the hidden pixels. Visible scale: with the mean of the visible patches' means and that of their "
    "spreads, so that no hidden pixel is used."
)


class Filling(NamedTuple):
    """Pixels for the hidden patches of N images, f32 [N, M, patch² · 3], 0..255 and beyond.

    predicted  what the network predicts
    blank      what needs no network, to compare with
    """

    predicted: Tensor
    blank: Tensor


class Filled(NamedTuple):
    """Hidden patches of N images, and the fillings of them by name.

    visible, hidden  ids of the patches, i64 [N, K] and [N, M]
    fillings         "" alone; with target norm_pix TRUE_SCALE and VISIBLE_SCALE
    """

    visible: np.ndarray
    hidden: Tensor
    fillings: dict[str, Filling]


@torch.no_grad()
def fill(method: Method, images: Tensor, shown: Mask, keys: np.ndarray) -> Filled | None:
    """Hide patches of images (u8 [N, 3, H, W]) by a mask and the images' keys (u64 [N]), and predict them.

    With target norm_pix the network predicts each patch in the patch's own scale: (pixels - mean) / spread. It
    predicts neither mean nor spread, so that its output is scaled back in two ways:

        TRUE_SCALE     by the hidden patch's own mean and spread, which are read from the hidden pixels
        VISIBLE_SCALE  by the mean of the visible patches' means, and that of their spreads; no hidden pixel is read

    `blank` is what a prediction of zeros gives then; for other targets the mean colour of the image's visible patches.
    Returns None where a prediction is no picture.
    """
    branch, patch = method.branch, method.branch.patch
    grid = grid_of(images, patch)
    visible_ids, _ = masks.draw(shown, keys, grid)
    visible = torch.from_numpy(visible_ids).to(images.device)
    hidden = hidden_from_visible(visible, prod(grid))
    predicted = branch.predict(method.encoder, images, visible)
    if predicted is None:
        return None
    normalisation = normalisation_of(method.encoder)
    if branch.settings.target == "norm_pix":
        true, seen = (_scale_of(images, ids, patch, normalisation) for ids in (hidden, visible))
        scales = {TRUE_SCALE: true, VISIBLE_SCALE: tuple(each.mean(1, keepdim=True) for each in seen)}
        fillings = {
            name: Filling(
                *(_to_pixels(each * spread + mean, normalisation) for each in (predicted, torch.zeros_like(predicted)))
            )
            for name, (mean, spread) in scales.items()
        }
        return Filled(visible_ids, hidden, fillings)
    seen = gather_patches(images, None, visible, patch).float().unflatten(-1, (-1, 3))
    blank = seen.mean((1, 2))[:, None].repeat(1, 1, patch * patch).expand_as(predicted)
    return Filled(visible_ids, hidden, {"": Filling(_to_pixels(predicted, normalisation), blank)})


def _scale_of(images: Tensor, ids: Tensor, patch: int, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """Mean and spread of patches (i64 [N, M]) as target norm_pix has them, f32 [N, M, 1] each."""
    pixels = normalised(gather_patches(images, None, ids, patch), torch.float32, normalisation)
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def keys_of(ids: np.ndarray, seed: int) -> np.ndarray:
    """Return the keys u64 [N] of images ids i64 [N]; which patches are hidden depends on key and mask alone."""
    return rng.keys(seed, 0, ids, rng.MASK)


class Drawn(NamedTuple):
    """Pictures u8 [N, H, W, 3]: images as the mask leaves them, and with each filling of their hidden patches."""

    masked: np.ndarray
    filled: dict[str, np.ndarray]


@torch.no_grad()
def reconstruct(
    method: Method, images: Tensor, shown: Mask, seed: int = 0, ids: np.ndarray | None = None
) -> Drawn | None:
    """Draw images (u8 [N, 3, H, W]) masked, and with the predictions in place of hidden patches.

    reconstruct(method, images, Mask("block", ratio=0.5)).masked

    ids  i64 [N], on which the masks depend; 0 to N - 1 when absent

    Visible patches are drawn as they are. Returns None where a prediction is no picture.
    """
    patch = method.branch.patch
    found = fill(method, images, shown, keys_of(np.arange(len(images)) if ids is None else ids, seed))
    if found is None:
        return None
    grid = grid_of(images, patch)
    made = {}
    for name, (predicted, _) in found.fillings.items():
        pixels = patchify(images, patch).float()
        pixels.scatter_(1, found.hidden[..., None].expand_as(predicted), predicted)
        drawn = unpatchify(pixels, grid, patch).clamp(0, 255).round().to(torch.uint8)
        made[name] = drawn.permute(0, 2, 3, 1).cpu().numpy()
    originals = images.permute(0, 2, 3, 1).cpu().numpy()
    seen = np.stack([mask(image, kept, patch) for image, kept in zip(originals, found.visible, strict=True)])
    return Drawn(seen, made)


def picture(
    method: Method,
    images: Tensor,
    ratios: Sequence[float],
    seed: int = 0,
    ids: np.ndarray | None = None,
) -> Picture | None:
    """Make a picture of images (u8 [N, 3, H, W]), masked at random at each ratio, and predicted.

    Ratios that leave no patch visible are left out. Returns None where a prediction is no picture.
    """
    patches = prod(grid_of(images, method.branch.patch))
    return masked_picture(method, images, [Mask(ratio=r) for r in ratios if patches * (1 - r) >= 1], seed, ids)


def masked_picture(
    method: Method, images: Tensor, shown: Sequence[Mask], seed: int = 0, ids: np.ndarray | None = None
) -> Picture | None:
    """Make a picture of images (u8 [N, 3, H, W]): a line of columns for each, and in it two or more for each mask.

    Returns None where a prediction is no picture.
    """
    columns, headings = [list(images.permute(0, 2, 3, 1).cpu().numpy())], ["image"]
    for each in shown:
        with full_precision(images.device):
            made = reconstruct(method, images, each, seed, ids)
        if made is None:
            return None
        columns += [list(pictures) for pictures in (made.masked, *made.filled.values())]
        named = "" if each.kind == "random" else f"{each.kind}, "
        headings += [f"{named}{percent(each.ratio, decimals=0)} hidden", *(HEADINGS[name] for name in made.filled)]
    lines = [list(line) for line in zip(*columns, strict=True)]
    side = max(SIDE, min(LARGEST, *images.shape[2:]))
    return Picture("Reconstructions", caption(method), png(lines, tuple(headings), side))


def caption(method: Method) -> str:
    """Say in full sentences what the picture's columns show."""
    plain = "Images in their own colours; visible patches are shown as they are."
    return f"{plain} {SCALES}" if method.branch.settings.target == "norm_pix" else plain


def png(lines: list[list[np.ndarray]], headings: tuple[str, ...], side: int = SIDE) -> bytes:
    """Encode a sheet of pictures u8 [h, w, 3], line by line, each of `side` pixels, as a PNG file."""
    file = io.BytesIO()
    sheet(lines, headings, side).save(file, "PNG")
    return file.getvalue()


@final
@dataclass(frozen=True)
class Reconstructions(Evaluator):
    """Pictures and squared errors of a masked branch's predictions, of a run or of a released masked autoencoder."""

    mask: tuple[str, ...] = ()
    """Kinds of mask, each at all ratios: random, block, grid (MAE Figure 6) or unit; KIND:RATIO, as in block:0.5, is at
    that one alone. When absent random."""
    ratios: tuple[float, ...] | None = None
    """Shares of patches that are hidden. When absent 0.5, 0.75, 0.9; of a kind that --mask names the one of MAE's
    Figure 6: random 0.75, block 0.5, grid 0.75."""
    pictures: Annotated[int, AT_LEAST_1] = 8
    """Images on the page, spread over the file."""
    chosen: tuple[int, ...] | None = None
    """Images on the page, by their numbers in the file."""
    measured: Annotated[int, AT_LEAST_1] = 1024
    """Images over which the error is averaged, spread over the file."""
    seed: int = 0
    """Of the masks."""
    target: Literal["pixel", "norm_pix"] | None = None
    """Of a file that does not say what its decoder predicts: pixel when absent, as MAE's visualisation weights do; most
    others, such as mae_pretrain_*_full.pth, predict norm_pix."""
    heads: Annotated[int | None, AT_LEAST_1] = None
    """Attention heads of a file's encoder, where it does not say; MAE's for widths 768, 1024, 1280 when absent."""
    decoder_heads: Annotated[int | None, AT_LEAST_1] = None
    """And of its decoder; MAE's 16 for width 512 when absent."""

    def load(self, path: Path) -> Loaded:
        """Load a run, or a masked autoencoder that another trainer released (models.pretrained.masked_model).

        The latter's folder takes the results, and what was read and assumed is printed.
        """
        check_bounds(self, "--")
        asked = Assumed(self.target, self.heads, self.decoder_heads)
        if is_run(path):
            if asked != Assumed():
                raise InputError(f"{path} is a run, whose recipe says target and heads; drop --target, --heads and "
                                 "--decoder-heads")  # fmt: skip
            return super().load(path)
        if not path.exists():
            raise InputError(f"{path}: expected a run, or a file or folder of MAE or ViTMAE weights; found none")
        if self.data.root is None:
            raise InputError(f"{path} is no run, and names no images; give --data.root FOLDER, and --data.file unless "
                             "it is val.beton")  # fmt: skip
        loaded = load_masked_model(str(path), chosen_device(self.device), asked)
        print(loaded.origin)
        return loaded

    def run(self, loaded: Loaded) -> Result:
        """Measure mse_R, the mean squared error of hidden pixels, 0 to 1, at ratio R, and blank_R of blank ones; for a
        mask of another kind than random mse_block_R and so on.

        With target norm_pix there are two of each (`fill`): mse_visible_scale_R, whose prediction is scaled by visible
        patches, and mse_true_scale_R, by the true hidden patch's own mean and spread.
        """
        check(loaded, self)
        beton = self.open(loaded)
        ids = self.shown(beton)
        images = torch.cat(list(self.images(loaded, beton, ids)))
        drawn = masked_picture(loaded.method, images, self.masks(loaded), self.seed, ids)
        if drawn is None:
            target = loaded.method.branch.settings.target
            raise InputError(f"{loaded.path} predicts {target}, of which there is no picture; give a run on pixels")
        ids, sums = spread(beton, self.measured), {}
        for first, batch in zip(range(0, len(ids), self.batch), self.images(loaded, beton, ids), strict=True):
            found = self.errors(loaded, batch, ids[first : first + self.batch])
            sums = {name: each + sums.get(name, 0) for name, each in found.items()}
        means = {name: (each / len(ids)).tolist() for name, each in sums.items()}
        origin = [Text(loaded.origin)] if loaded.origin else []
        return Result({"images": float(len(ids))} | means, [*origin, drawn])

    def errors(self, loaded: Loaded, images: Tensor, ids: np.ndarray) -> dict[str, Tensor]:
        """Sum the images' mean squared errors of predicted and of blank patches by name: f64 [], on the device."""
        found = {}
        for shown in self.masks(loaded):
            kind = "" if shown.kind == "random" else shown.kind
            with full_precision(images.device):
                filled = fill(loaded.method, images, shown, keys_of(ids, self.seed))
            assert filled is not None  # `run` has drawn such a picture
            truth = gather_patches(images, None, filled.hidden, loaded.method.branch.patch).float()
            for name in sorted(filled.fillings, reverse=True):  # visible_scale first: it is the one to compare by
                for what, pixels in zip(("mse", "blank"), filled.fillings[name], strict=True):
                    each = (pixels - truth).double().div(255).square().mean((1, 2))
                    found["_".join(filter(None, (what, name, kind, f"{shown.ratio:g}")))] = each.sum()
        return found

    def masks(self, loaded: Loaded) -> list[Mask]:
        """List the masks that the flags ask for; a unit is as large as in the run's recipe.

        Raises InputError for a kind or a ratio that cannot be.
        """
        found = []
        for asked in self.mask or ("random",):
            kind, _, ratio = asked.partition(":")
            if kind not in KINDS:
                near = did_you_mean(kind, KINDS) or f"; there are {', '.join(KINDS)}"
                raise InputError(f"--mask: no mask that is drawn over a whole image is called {kind!r}{near}")
            unit = loaded.recipe.data.mask.unit if kind == "unit" else Mask.unit
            found += [Mask(kind, each, unit) for each in self._ratios(asked, kind, ratio)]
        if len({*found}) < len(found):
            raise InputError(f"--mask {' '.join(self.mask)}: one mask is there twice; leave one out")
        return found

    def _ratios(self, asked: str, kind: str, ratio: str) -> tuple[float, ...]:
        """Read the ratio of KIND:RATIO, else those of the flag."""
        if ":" in asked:
            try:
                share = float(ratio)
            except ValueError:
                share = nan
            if not 0 < share < 1:
                raise InputError(f"--mask {asked}: expected KIND or KIND:RATIO, as in {kind}:0.75")
            return (share,)
        if self.ratios is not None:
            return self.ratios
        return (FIGURE_6[kind],) if self.mask and kind in FIGURE_6 else RATIOS

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
    if evaluator.ratios is not None and not evaluator.ratios:
        raise InputError("--ratios: expected a mask ratio or more, got none")
    grid = tuple(loaded.method.encoder.patch_embed.grid_size)
    for shown in evaluator.masks(loaded):
        try:
            masks.draw(shown, keys_of(np.zeros(1, np.int64), evaluator.seed), grid)
        except InputError as error:
            flag = f"--mask {shown.kind}" if evaluator.mask else "--ratios"
            raise InputError(f"{flag}: {error}") from None


def _to_pixels(predicted: Tensor, normalisation: Normalisation) -> Tensor:
    """Convert normalised values f32 [..., patch² · 3] to pixels, 0..255."""
    repeats = predicted.shape[-1] // 3
    mean, std = (
        torch.tensor(v, device=predicted.device).repeat(repeats) for v in (normalisation.mean, normalisation.std)
    )
    return (predicted * std + mean) * 255
