"""The default views of real images as one picture: original, weak, strong, masked.  python -m pipeline.preview DATA

A recipe's own views: python -m models.preview RECIPE
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

from pipeline.backends import libffcv
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.open import open_backend
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data
from pipeline.store.beton import Beton, open_beton
from pipeline.train_data import unlabelled_spec
from pipeline.views.plan import draw

COLUMNS = ("original", "weak", "strong", "masked")
COLOURS = {"weak": (0, 114, 178), "strong": (213, 94, 0)}  # of headings and boxes; colour-blind eyes tell them apart
HIDDEN = 118  # grey of a hidden patch
PALE = 4  # how much weaker an image is outside a window
GAP, HEADING = 6, 24
OUTLINE = 125  # pixels of an image to one of its boxes' outlines: a small image has none


@dataclass(frozen=True)
class Arguments:
    """Draw the default views of a few images of a .beton file; `python -m models.preview` draws a recipe's."""

    path: Annotated[str, tyro.conf.Positional]
    """A .beton file, or a folder with train.beton."""
    out: str = "preview.png"
    """Picture to write."""
    images: int = 8
    size: int = Data.size
    """Side of the views, in pixels."""
    patch: int = 16
    """Side of a patch of the masked view, in pixels."""
    seed: int = 0


def rows(
    beton: Beton, data: Data, patch: int, ids: np.ndarray, seed: int = 0, columns: Sequence[str] = COLUMNS
) -> list[list[np.ndarray]]:
    """For each image (ids i64 [N]) the pictures u8 [h, w, 3] of `columns`, as the loader makes them in the first pass.

    Boxes on the original show where the weak and the strong view were cut.
    Raises InputError if the patch does not divide the view.
    """
    if "masked" in columns and data.size % patch:
        raise InputError(f"patches of {patch} pixels do not divide views of {data.size}; choose another patch or size")
    backend = open_backend(replace(data, backend="ffcv", views_on="cpu"), beton, torch.device("cpu"))
    try:
        wanted = unlabelled_spec(data, patch, strong=True, visible="masked" in columns)
        samples = SampleIds(ids, np.zeros_like(ids))
        plan = draw(wanted, samples, beton.heights[ids], beton.widths[ids], seed)
        weak, strong = (view.permute(0, 2, 3, 1).numpy() for view in backend.start(plan)())
    finally:
        backend.close()
    originals = [libffcv.decode(beton.jpeg(i), int(beton.heights[i]), int(beton.widths[i])) for i in ids]
    for v, name in enumerate(("weak", "strong")):
        if name in columns:
            originals = [outlined(*each, COLOURS[name]) for each in zip(originals, plan.params.boxes[v], strict=True)]
    made = {"original": originals, "weak": weak, "strong": strong}
    if "masked" in columns:
        hidden = [None] * len(ids) if plan.hidden is None else plan.hidden
        made["masked"] = [masked(*each, patch) for each in zip(weak, plan.visible, hidden, strict=True)]
    return [list(row) for row in zip(*(made[name] for name in columns), strict=True)]


def spread(beton: Beton, images: int) -> np.ndarray:
    """Ids i64 [N] of up to so many images, from the first to the last."""
    return np.linspace(0, beton.n - 1, min(images, beton.n)).astype(np.int64)


def check_picture(out: str, images: int) -> None:
    """Raise InputError if there would be nothing to draw, or no place or format to write it to."""
    path = Path(out)
    if images < 1:
        raise InputError(f"--images must be 1 or more, got {images}")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"--out: expected a name that ends in .png, .jpg or .webp, got {out}")
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--out: {path if path.is_dir() else path.parent} is {'a' if path.is_dir() else 'no'} folder")


def save(page: Image.Image, out: str) -> None:
    """Write the picture. Raises InputError if the disk refuses."""
    try:
        page.save(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from error


def outlined(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The image u8 [h, w, 3] with the outline of a box i32 [4] (top, left, height, width)."""
    line = max(image.shape) // OUTLINE
    if not line:
        return image
    page, (top, left, height, width) = Image.fromarray(image), box.tolist()
    ImageDraw.Draw(page).rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=line)
    return np.asarray(page)


def mask(image: np.ndarray, visible: np.ndarray, patch: int) -> np.ndarray:
    """The image u8 [S, S, 3] with every patch grey that is not in `visible` (i64 [K])."""
    grid = image.shape[0] // patch
    shown = np.zeros(grid * grid, bool)
    shown[visible] = True
    shown = shown.reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
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


def sheet(pictures: list[list[np.ndarray]], headings: tuple[str, ...], side: int) -> Image.Image:
    """Pictures u8 [h, w, 3] in rows and columns, each fitted into `side` pixels, headings above the columns."""
    width = len(headings) * (side + GAP) + GAP
    page = Image.new("RGB", (width, HEADING + len(pictures) * (side + GAP) + GAP), "white")
    draw_on, font = ImageDraw.Draw(page), ImageFont.load_default(min(15, side // 8))
    for column, heading in enumerate(headings):
        middle = GAP + column * (side + GAP) + side // 2, HEADING // 2
        draw_on.text(middle, heading, fill=COLOURS.get(heading, "black"), font=font, anchor="mm")
        for row, line in enumerate(pictures):
            picture = _fitted(Image.fromarray(line[column]), side)
            x, y = GAP + column * (side + GAP), HEADING + row * (side + GAP)
            page.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    return page


def shown_side(size: int) -> int:
    """The side at which views of `size` pixels are shown."""
    return max(96, min(224, size))


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS  # small images: show their pixels
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)


def main() -> None:
    """Write the picture and say where it is."""
    a = parse(Arguments, prog="python -m pipeline.preview")
    check_picture(a.out, a.images)
    if a.patch < 1 or a.size < 1 or a.seed < 0:
        raise InputError(f"--patch and --size must be 1 or more, --seed 0 or more, got {a.patch}, {a.size}, {a.seed}")
    data, path = Data(size=a.size), Path(a.path)
    beton = open_beton(path / data.train if path.is_dir() else path)
    ids = spread(beton, a.images)
    save(sheet(rows(beton, data, a.patch, ids, a.seed), COLUMNS, shown_side(a.size)), a.out)
    print(f"{a.out}: {len(ids)} images of {beton.path}, {' | '.join(COLUMNS)}")


if __name__ == "__main__":
    command(main)
