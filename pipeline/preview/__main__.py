"""Draw images of a data set as one picture: their default views, or with the labels that they carry.

python -m pipeline.preview DATA               # original, weak, strong, masked
python -m pipeline.preview DATA --labels      # a row for each class

A recipe's own views: python -m models.preview RECIPE
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.errors import InputError, command
from pipeline.flags import AT_LEAST_1, NOT_NEGATIVE, check_bounds, parse
from pipeline.preview.labels import label_rows, label_sheet
from pipeline.preview.picture import check_picture, save, sheet, shown_side
from pipeline.preview.views import COLUMNS, rows, spread
from pipeline.spec import Data, Size
from pipeline.store.beton import open_beton
from pipeline.text import count


@dataclass(frozen=True)
class Arguments:
    """Draw a few images of a .beton file: their default views, or with --labels those of each class."""

    path: Annotated[str, tyro.conf.Positional]
    """A .beton file, or a folder with train.beton."""
    out: str = "preview.png"
    """Picture to write."""
    images: int = 8
    """Images to draw; with --labels, of each class."""
    labels: bool = False
    """Draw a row for each class, with the images that carry its label, and one for images without a label."""
    classes: Annotated[int, AT_LEAST_1] = 20
    """With --labels: how many classes to draw; of more, some at even distances."""
    size: Annotated[Size, AT_LEAST_1] = 224
    """Size of the views, in pixels: the side of a square, or height and width."""
    patch: Annotated[int, AT_LEAST_1] = 16
    """Side of a patch of the masked view, in pixels."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Of the random choices of the views."""

    def check(self) -> None:
        """Raise InputError for numbers out of their bounds, and for flags that have no meaning here."""
        check_picture(self.out, self.images)
        check_bounds(self)
        without = ("size", "patch", "seed") if self.labels else ("classes",)
        for each in fields(self):
            if each.name in without and getattr(self, each.name) != each.default:
                where = "with" if self.labels else "without"
                raise InputError(f"--{each.name} has no meaning {where} --labels; leave it out")


def main() -> None:
    """Write the picture and say where it is, and what is not on it."""
    a = parse(Arguments, prog="python -m pipeline.preview")
    a.check()
    data, path = Data(size=a.size), Path(a.path)
    beton = open_beton(path / data.train if path.is_dir() else path)
    if a.labels:
        found = label_rows(beton, a.images, a.classes)
        save(label_sheet(found), a.out)
        print(f"{a.out}: {found.said(beton.path)}")
        return
    ids = spread(beton, a.images)
    save(sheet(rows(beton, data, a.patch, ids, a.seed), COLUMNS, shown_side(a.size)), a.out)
    print(f"{a.out}: {count(len(ids), 'image')} of {beton.path}, {' | '.join(COLUMNS)}")


if __name__ == "__main__":
    command(main)
