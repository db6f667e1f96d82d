"""Lay pictures out on a page, and write it.

save(sheet([[original, weak], [original, weak]], ("original", "weak"), side=224), "preview.png")
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import InputError
from pipeline.spec import Size, both_sides
from pipeline.store.atomic_write import check_writable

COLOURS = {"weak": (0, 114, 178), "strong": (213, 94, 0)}  # of headings and boxes; colour-blind eyes tell them apart
GAP, HEADING = 6, 24
CAPTION, LINE, SHOWN = 12, 15, 160  # pixels: height of a caption's letters and of its lines, side of the pictures above


def check_picture(out: str, images: int) -> None:
    """Raise InputError if there would be nothing to draw, or no place or format to write it to."""
    path = Path(out)
    if images < 1:
        raise InputError(f"--images must be 1 or more, got {images}")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"--out: expected a name that ends in .png, .jpg or .webp, got {out}")
    check_writable(path)


def save(page: Image.Image, out: str) -> None:
    """Write the picture. Raises InputError if the disk refuses, or if it is too large for its format."""
    try:
        page.save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"{out} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def sheet(pictures: list[list[np.ndarray]], headings: tuple[str, ...], side: int) -> Image.Image:
    """Pictures u8 [h, w, 3] in rows and columns, each fitted into `side` pixels, headings above the columns."""
    width = len(headings) * (side + GAP) + GAP
    page = Image.new("RGB", (width, HEADING + len(pictures) * (side + GAP) + GAP), "white")
    draw_on, font = ImageDraw.Draw(page), ImageFont.load_default(min(15, side // 8))
    for column, heading in enumerate(headings):
        middle = GAP + column * (side + GAP) + side // 2, HEADING // 2
        draw_on.text(middle, heading, fill=COLOURS.get(heading, "black"), font=font, anchor="mm")
        for row, line in enumerate(pictures):
            picture = fitted(Image.fromarray(line[column]), side)
            x, y = GAP + column * (side + GAP), HEADING + row * (side + GAP)
            page.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    return page


def captioned_sheet(
    pictures: Sequence[np.ndarray], captions: Sequence[Sequence[str]], columns: int = 5, side: int = SHOWN
) -> Image.Image:
    """Pictures u8 [h, w, 3] from left to right and top to bottom, each with lines of text below it, which are cut where
    they are too long."""
    columns, lines = min(columns, len(pictures)), max(map(len, captions))
    width, height = side + GAP, side + LINE * lines + GAP
    page = Image.new("RGB", (columns * width + GAP, -(-len(pictures) // columns) * height + GAP), "white")
    draw_on, font = ImageDraw.Draw(page), ImageFont.load_default(CAPTION)
    for i, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + i % columns * width, GAP + i // columns * height
        picture = fitted(Image.fromarray(pixels), side)
        page.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        for line, text in enumerate(caption):
            draw_on.text((x, y + side + line * LINE), _cut(text, font, side), fill="black", font=font)
    return page


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Text of at most so many pixels, dots in the place of what is cut off."""
    kept = text
    while len(kept) > 1 and font.getlength(kept if kept == text else f"{kept}...") > width:
        kept = kept[:-1]
    return kept if kept == text else f"{kept}..."


def shown_side(size: Size) -> int:
    """The length at which the longer side of views of a size is shown."""
    return max(96, min(224, max(both_sides(size))))


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """The picture, enlarged or reduced until its longer side is `side`; small images keep sharp pixels."""
    scale = side / max(picture.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS  # small images: show their pixels
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)
