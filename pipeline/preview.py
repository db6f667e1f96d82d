"""The views of real images as one picture: original, weak, strong, masked.  python -m pipeline.preview DATA"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

from pipeline import libffcv
from pipeline.beton import Beton, open_beton
from pipeline.errors import InputError, command
from pipeline.open import open_backend
from pipeline.order import Picks
from pipeline.plan import draw
from pipeline.spec import Data
from pipeline.task import wanted_unlabelled

COLUMNS = ("original", "weak", "strong", "masked")
COLOURS = {"weak": (0, 114, 178), "strong": (213, 94, 0)}  # of headings and boxes; colour-blind eyes tell them apart
HIDDEN = 118  # grey of a hidden patch
GAP, HEADING = 6, 24
OUTLINE = 125  # pixels of an image to one of its boxes' outlines: a small image has none


@dataclass(frozen=True)
class Arguments:
    """Draw the views of a few images of a .beton file."""

    path: Annotated[str, tyro.conf.Positional]
    """A .beton file, or a folder with train.beton."""
    out: str = "preview.png"
    images: int = 8
    patch: int = 16
    seed: int = 0
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=lambda: Data(backend="ffcv"))


def rows(beton: Beton, data: Data, patch: int, ids: np.ndarray, seed: int = 0) -> list[list[np.ndarray]]:
    """For each image its four pictures u8 [h, w, 3], as the loader makes them in the first pass.

    Boxes on the original show where the weak and the strong view were cut.
    """
    backend = open_backend(data, beton, torch.device("cpu"))
    try:
        wanted = wanted_unlabelled(data, patch, strong=True, visible=True)
        picks = Picks(ids, np.zeros_like(ids))
        plan = draw(wanted, picks, beton.heights[ids], beton.widths[ids], seed)
        weak, strong = (view.permute(0, 2, 3, 1).numpy() for view in backend.start(plan)())
    finally:
        backend.close()
    originals = [libffcv.decode(beton.jpeg(i), int(beton.heights[i]), int(beton.widths[i])) for i in ids]
    for v, name in enumerate(("weak", "strong")):
        originals = [outlined(*each, COLOURS[name]) for each in zip(originals, plan.stacked.boxes[v], strict=True)]
    masked = [mask(image, visible, patch) for image, visible in zip(weak, plan.visible, strict=True)]
    return [list(row) for row in zip(originals, weak, strong, masked, strict=True)]


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


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS  # small images: show their pixels
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)


def main() -> None:
    """Write the picture and say where it is."""
    a = tyro.cli(Arguments, prog="python -m pipeline.preview")
    path = Path(a.path)
    beton = open_beton(path / a.data.train if path.is_dir() else path)
    if a.images < 1:
        raise InputError(f"--images must be 1 or more, got {a.images}")
    ids = np.linspace(0, beton.n - 1, min(a.images, beton.n)).astype(np.int64)
    data = replace(a.data, backend="ffcv", views_on="cpu")
    page = sheet(rows(beton, data, a.patch, ids, a.seed), COLUMNS, max(96, min(224, a.data.size)))
    page.save(a.out)
    print(f"{a.out}: {len(ids)} images of {beton.path}, {' | '.join(COLUMNS)}")


if __name__ == "__main__":
    command(main)
