"""Pictures of segmentation, for pages: what a recipe makes of training images, and what a run makes of others."""

import numpy as np
from PIL import Image
from torch import Tensor

from models.config.recipe import Recipe
from models.dense.drawing import overlay, png
from models.methods.segment import Segment
from models.reporting.render import Picture
from pipeline.dense.dataset import PixelDataset
from pipeline.dense.pixels import PixelSet
from pipeline.dense.train_data import DenseSet
from pipeline.preview.picture import captioned_sheet, sheet

SIDE = 224
"""Pixels of the longer side of a picture."""
COLUMNS = "image", "classes", "crop", "its classes"
TRUE, PREDICTED = "true", "predicted"


def spread_over(found: DenseSet, n: int) -> list[int]:
    """List n images of a set, or all, at equal distances."""
    return np.unique(np.linspace(0, found.n - 1, min(n, found.n)).astype(int)).tolist()


def view_sheet(found: PixelSet, recipe: Recipe, n: int) -> Image.Image:
    """Draw training images with their masks, and the views of their first pass."""
    dataset, rows = PixelDataset(found, recipe.data.size, recipe.run.seed), []
    for index in spread_over(found, n):
        whole, classes = found.read(index)
        crop, inside = dataset[index, 0]
        pairs = (shown(whole), classes.numpy()), (shown(crop), inside.numpy())
        rows.append([part for image, held in pairs for part in (image, overlay(image, held))])
    return sheet(rows, COLUMNS, SIDE)


def view_picture(found: PixelSet, recipe: Recipe, n: int = 8) -> Picture:
    """Show what `view_sheet` draws."""
    return Picture("Views", "What the recipe makes of training images.", png(view_sheet(found, recipe, n)))


def prediction_picture(method: Segment, found: PixelSet, n: int = 8, batch: int = 8) -> Picture:
    """Show images of a set, their classes, and those that a method predicts."""
    rows = []
    for index in spread_over(found, n):
        image, classes = found.read(index)
        pixels, predicted = shown(image), method.predict(image, batch).cpu().numpy()
        rows.append([pixels, overlay(pixels, classes.numpy()), overlay(pixels, predicted)])
    text = f"Images of {found.path}, their classes and the predicted ones; a pixel without a class keeps its colour."
    return Picture("Predictions", text, png(sheet(rows, ("image", TRUE, PREDICTED), SIDE)))


def legend(classes: tuple[str, ...], colours: np.ndarray) -> Image.Image:
    """Draw the colour of each class beside its name."""
    patches = [np.broadcast_to(colour, (24, 96, 3)).copy() for colour in colours[: len(classes)]]
    return captioned_sheet(patches, [(name,) for name in classes], columns=6, side=96)


def shown(image: Tensor) -> np.ndarray:
    """An image u8 [3, H, W] as pictures are drawn: u8 [H, W, 3]."""
    return np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())
