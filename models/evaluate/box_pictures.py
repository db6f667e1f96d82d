"""Pictures of detection, for pages: what a recipe makes of training images, and what a run finds in others."""

import numpy as np
from PIL import Image

from models.config.recipe import Recipe
from models.dense.box_drawing import Drawing, draw_objects
from models.dense.drawing import png
from models.dense.mask_rcnn import Found
from models.evaluate.dense_pictures import PREDICTED, TRUE, shown, spread_over
from models.methods.detect import Detect
from models.reporting.render import Picture
from pipeline.dense.boxes import BoxSet, Objects
from pipeline.dense.dataset import BoxDataset
from pipeline.dense.segmentations import drawn
from pipeline.preview.picture import sheet
from pipeline.text import percent

SIDE = 384
"""Pixels of the longer side of a picture: names of classes can be read."""
SCORE = 0.3
"""Detections that are less likely are not drawn."""
COLUMNS = "image", "objects", "view", "its objects"


def view_sheet(found: BoxSet, recipe: Recipe, n: int) -> Image.Image:
    """Draw training images with their objects, and the views of their first pass."""
    dataset, rows = BoxDataset(found, recipe.data.size, recipe.run.seed), []
    for index in spread_over(found, n):
        view = dataset[index, 0]
        masks = None if view.masks is None else view.masks.numpy()
        cut = Drawing(shown(view.image), view.boxes.numpy(), view.classes.numpy(), masks=masks)
        rows.append(objects_row([known(shown(found.read(index)), found.objects[index]), cut], found.classes))
    return sheet(rows, COLUMNS, SIDE)


def objects_row(drawings: list[Drawing], names: tuple[str, ...]) -> list[np.ndarray]:
    """Make a row of a sheet: each image, then the image with its objects, u8 [h, w, 3]."""
    return [part for each in drawings for part in (each.image, draw_objects(each, names, SIDE))]


def view_picture(found: BoxSet, recipe: Recipe, n: int = 8) -> Picture:
    """Show what `view_sheet` draws."""
    return Picture("Views", "What the recipe makes of training images.", png(view_sheet(found, recipe, n)))


def prediction_picture(method: Detect, found: BoxSet, n: int = 8, score: float = SCORE) -> Picture:
    """Show images of a set, their objects, and those that a method finds with at least this score."""
    rows = []
    for index in spread_over(found, n):
        image = found.read(index)
        truth = known(shown(image), found.objects[index])
        (found_here,) = method.predict([image])
        likely = likely_drawing(truth.image, found_here, score)
        rows.append([truth.image, *(draw_objects(each, found.classes, SIDE) for each in (truth, likely))])
    text = (
        f"Images of {found.path}, their objects, and those that are found with a score of at least "
        f"{percent(score, decimals=0)}; objects in grey are neither learned nor judged."
    )
    return Picture("Predictions", text, png(sheet(rows, ("image", TRUE, PREDICTED), SIDE)))


def known(image: np.ndarray, objects: Objects) -> Drawing:
    """The objects of a set's image u8 [H, W, 3], as they are drawn."""
    height, width = image.shape[:2]
    masks = None if objects.masks is None else [drawn(each, height, width) for each in objects.masks]
    stacked = None if not masks else np.stack(masks)
    return Drawing(image, objects.boxes, objects.classes, masks=stacked, ignored=objects.ignored)


def likely_drawing(image: np.ndarray, found: Found, score: float = SCORE) -> Drawing:
    """What a method found in an image u8 [H, W, 3] with at least this score, as it is drawn."""
    kept = found.scores >= score
    masks = None if found.masks is None else found.masks[kept].numpy()
    return Drawing(image, found.boxes[kept].numpy(), found.classes[kept].numpy(), found.scores[kept].numpy(), masks)
