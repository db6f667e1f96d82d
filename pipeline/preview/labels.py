"""Draw images with the labels that they carry, a row for each class, so that a wrong table is seen at a glance.

found = label_rows(beton, images=8, classes=20)
save(label_sheet(found), "labels.png")
"""

import textwrap
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.backends.pixels import read_pixels
from pipeline.labels.splits import known_labels
from pipeline.preview.picture import GAP, fitted
from pipeline.store.beton import Beton
from pipeline.text import count

SIDE = 112  # of each image, in pixels
MARGIN, TEXT, LINE = 200, 14, 18  # pixels: width of the names' column, height of letters, and of a line
WRAP, LINES = 24, 5  # characters of a line, and lines of a name
GREY = (120, 120, 120)


class Row(NamedTuple):
    """A class: its number and name, how many images carry its label, and some of these, u8 [h, w, 3].

    The number is None for images without a label. A picture is None where an image no longer decodes.
    """

    number: int | None
    name: str
    count: int
    pictures: list[np.ndarray | None]


@final
class LabelRows(NamedTuple):
    """The rows of a picture, and how many classes the file has."""

    rows: list[Row]
    n_classes: int
    images: int

    def said(self, path: Path) -> str:
        """What is drawn, and what is not."""
        shown = sum(row.number is not None for row in self.rows)
        missing = sum(row.count for row in self.rows if row.number is None)
        drawn = f"{shown:,} of {count(self.n_classes, 'class')} of {path}, up to {count(self.images, 'image')} of each"
        if missing:
            drawn += f", and of the {missing:,} without a label"
        hidden = self.n_classes - shown
        return drawn + (f"; {count(hidden, 'class')} not drawn: --classes {self.n_classes} draws all" if hidden else "")


def label_rows(beton: Beton, images: int, classes: int) -> LabelRows:
    """Up to so many `images` of each of up to so many `classes`, which are taken at even distances if there are more,
    and of the images without a label."""
    names, labels = beton.manifest.classes or (), known_labels(beton, None).values if beton.manifest.classes else None
    chosen = np.unique(np.linspace(0, len(names) - 1, min(classes, len(names))).astype(int)).tolist()
    rows = []
    for number in chosen:
        ids = np.flatnonzero(labels == number)
        rows.append(Row(number, names[number], len(ids), _pictures(beton, ids, images)))
    if beton.manifest.n_unlabelled:
        ids = np.arange(beton.n) if labels is None else np.flatnonzero(labels < 0)
        rows.append(Row(None, "without a label", len(ids), _pictures(beton, ids, images)))
    return LabelRows(rows, len(names), images)


def _pictures(beton: Beton, ids: np.ndarray, images: int) -> list[np.ndarray | None]:
    places = np.linspace(0, len(ids) - 1, min(images, len(ids))).astype(int)  # from the first to the last
    return [read_pixels(beton, i) for i in ids[places]]


def label_sheet(found: LabelRows) -> Image.Image:
    """A page with a row for each class: number, name and count at the left, then its images."""
    page = Image.new("RGB", (MARGIN + found.images * (SIDE + GAP) + GAP, len(found.rows) * (SIDE + GAP) + GAP), "white")
    on, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT)
    for i, row in enumerate(found.rows):
        top = GAP + i * (SIDE + GAP)
        *name, count = _text(row)
        for line, text in enumerate(name):
            on.text((GAP, top + line * LINE), text, fill="black", font=font)
        on.text((GAP, top + len(name) * LINE), count, fill=GREY, font=font)
        if i:
            on.line((0, top - GAP // 2, page.width, top - GAP // 2), fill=GREY)
        for column, pixels in enumerate(row.pictures):
            left = MARGIN + column * (SIDE + GAP)
            if pixels is None:
                on.text((left, top), "does not decode", fill=GREY, font=font)
                continue
            picture = fitted(Image.fromarray(pixels), SIDE)
            page.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    return page


def _text(row: Row) -> list[str]:
    """The lines beside a row; of a very long name the beginning, and how long it is."""
    lines = textwrap.wrap(row.name, WRAP, break_on_hyphens=False) or ["(empty name)"]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"... ({len(row.name)} characters)"]
    number = "" if row.number is None else f"class {row.number}, "
    return [*lines, f"{number}{row.count:,} image{'s' * (row.count != 1)}"]
