"""Draw the views that a recipe makes of its training images, as one picture.

python -m models.preview semi_mae:digits --data.strong.augment usb        # the recipe's flags, as of train.py
"""

import sys
from dataclasses import dataclass

import numpy as np

from models.config.recipe import Recipe
from models.config.resolve import resolve
from models.evaluate.dense_sets import view_sheet
from models.factory import method_class
from models.pretrained.architecture import with_encoder_of_start
from pipeline.dense.train_data import open_dense
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.open import open_data
from pipeline.preview.picture import check_picture, save, sheet, shown_side
from pipeline.preview.views import COLUMNS, rows, spread
from pipeline.store.beton import Beton
from pipeline.text import count

PROGRAM = "python -m models.preview"


@dataclass(frozen=True)
class Arguments:
    """Draw the views that a recipe makes of a few training images; all other flags are the recipe's, as of train.py."""

    out: str = "preview.png"
    """File of the picture."""
    images: int = 8
    """Number of images to draw."""


def columns(recipe: Recipe) -> tuple[str, ...]:
    """Names of the columns: the original, and the views that the recipe's method reads."""
    needs = method_class(recipe).needs(recipe)
    read = {
        "original": True,
        "weak": needs.unlabelled or recipe.data.labelled_view == "weak",
        "strong": needs.strong or (needs.labelled and recipe.data.labelled_view == "strong"),
        "masked": needs.labelled_visible or needs.unlabelled_visible,
    }
    return tuple(name for name in COLUMNS if read[name])


def views(recipe: Recipe, beton: Beton, ids: np.ndarray) -> list[list[np.ndarray]]:
    """The pictures u8 [h, w, 3] of `columns` for each image (ids i64 [N]) of the recipe's training file."""
    return rows(beton, recipe.data, recipe.encoder.patch, ids, recipe.run.seed, columns(recipe))


def main() -> None:
    """Write the picture and print where it is."""
    if len(sys.argv) < 2:
        raise InputError(f"expected a recipe: {PROGRAM} RECIPE [--out FILE] [FLAGS]; `python train.py` lists them")
    own = sys.argv[1:] if sys.argv[1].startswith("-") else sys.argv[2:]
    a, flags = parse(Arguments, args=own, prog=f"{PROGRAM} RECIPE", return_unknown_args=True)
    check_picture(a.out, a.images)
    recipe, _ = with_encoder_of_start(resolve(sys.argv[1], flags))
    needs = method_class(recipe).needs(recipe)
    if needs.image_files:
        found = open_dense(recipe.data, needs, recipe.data.train)
        drawn, heads = view_sheet(found, recipe, a.images)
        save(drawn, a.out)
        print(f"{a.out}: {count(min(a.images, found.n), 'image')} of {found.path}, {' | '.join(heads)}")
        return
    beton = open_data(recipe.data, recipe.data.train)
    ids = spread(beton, a.images)
    save(sheet(views(recipe, beton, ids), columns(recipe), shown_side(recipe.data.size)), a.out)
    print(f"{a.out}: {count(len(ids), 'image')} of {beton.path}, {' | '.join(columns(recipe))}")


if __name__ == "__main__":
    command(main)
