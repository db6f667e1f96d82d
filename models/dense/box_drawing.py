"""Draw objects over an image: boxes in their class's colour with its name and a score, and masks.

Image.fromarray(draw_objects(Drawing(image, boxes, classes, scores), ("cat", "dog"))).save("boxes.png")
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.dense.drawing import SHARE, palette
from pipeline.text import percent

COLOURS = 256
"""How many classes have a colour of their own."""
NOT_JUDGED = 160, 160, 160
"""Colour of objects that are ignored."""
PER_LETTER, PER_LINE = 32, 240
"""Of the image's longer side, how much is the height of a letter, and the width of a line."""
LEAST_LETTER, LEAST_LINE = 11, 2
BRIGHT = 140
"""Colours brighter than this have black letters, others white ones."""


class Drawing(NamedTuple):
    """An image and its objects, as they are drawn.

    image    u8 [H, W, 3]
    boxes    f32 [m, 4]        left, top, right and lower edge in pixels of the image
    classes  i64 [m]           from 0
    scores   f32 [m]           None of objects that are known
    masks    bool [m, H, W]    None where there are none
    ignored  bool [m]          drawn in grey, without a mask; None: no object is
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None
    ignored: np.ndarray | None = None


def draw_objects(drawing: Drawing, names: Sequence[str], side: int | None = None) -> np.ndarray:
    """Draw boxes, names of classes and scores over an image: u8 [h, w, 3]; the likeliest are drawn last.

    names  of the classes
    side   enlarge or reduce the image first until its longer side has so many pixels, so that text can be read
    """
    image = Image.fromarray(_with_masks(drawing))
    scale = 1.0 if side is None else side / max(image.size)
    if scale != 1:
        image = image.resize([max(1, round(edge * scale)) for edge in image.size], Image.Resampling.LANCZOS)
    draw_on, longest = ImageDraw.Draw(image), max(image.size)
    font = ImageFont.load_default(max(LEAST_LETTER, longest // PER_LETTER))
    line = max(LEAST_LINE, longest // PER_LINE)
    labels = []
    for number in _order(drawing):
        colour, text = _colour(drawing, number), _text(drawing, number, names)
        box = [float(edge) * scale for edge in drawing.boxes[number]]
        draw_on.rectangle(box, outline=colour, width=line)
        labels.append((box, text, colour))
    for box, text, colour in labels:  # above every box
        _label(draw_on, box, text, colour, font, image.size)
    return np.asarray(image)


def _order(drawing: Drawing) -> list[int]:
    """Objects from the least to the most likely; of known ones as they come."""
    if drawing.scores is None:
        return list(range(len(drawing.boxes)))
    return np.argsort(drawing.scores, kind="stable").tolist()


def _with_masks(drawing: Drawing) -> np.ndarray:
    """The image u8 [H, W, 3] in which each mask's pixels are mixed with its class's colour."""
    if drawing.masks is None:
        return np.ascontiguousarray(drawing.image)
    pixels = drawing.image.astype(np.float32)
    for number in _order(drawing):
        if not _is_ignored(drawing, number):
            inside = drawing.masks[number]
            pixels[inside] = (1 - SHARE) * drawing.image[inside] + SHARE * np.array(_colour(drawing, number))
    return pixels.round().astype(np.uint8)


def _is_ignored(drawing: Drawing, number: int) -> bool:
    return drawing.ignored is not None and bool(drawing.ignored[number])


def _colour(drawing: Drawing, number: int) -> tuple[int, int, int]:
    if _is_ignored(drawing, number):
        return NOT_JUDGED
    red, green, blue = palette(COLOURS)[drawing.classes[number] % COLOURS].tolist()
    return red, green, blue


def _text(drawing: Drawing, number: int, names: Sequence[str]) -> str:
    name = names[drawing.classes[number]]
    if _is_ignored(drawing, number):
        return f"{name}, ignored"
    return name if drawing.scores is None else f"{name} {percent(float(drawing.scores[number]), decimals=0)}"


def _label(
    draw_on: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Write text on its colour above a box, or below its upper edge where the image ends, and never outside it."""
    left, top, right, bottom = draw_on.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, box[0]), max(0.0, size[0] - width))
    y = box[1] - height if box[1] >= height else min(max(0.0, box[1]), max(0.0, size[1] - height))
    draw_on.rectangle([x, y, x + width, y + height], fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > BRIGHT
    draw_on.text((x + 2 - left, y + 2 - top), text, fill="black" if bright else "white", font=font)
