"""Draw the classes of an image's pixels over it, and save them as numbers with colours.

Image.fromarray(overlay(image, classes)).save("over.png")
png = index_png(classes, 11)
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from pipeline.batch import IGNORED

SHARE = 0.55
"""How much of a pixel's colour in an overlay is its class's."""


@lru_cache(maxsize=4)
def palette(classes: int = 256) -> np.ndarray:
    """Colours u8 [classes, 3] that differ in as many of their first bits as can be: PASCAL VOC's."""
    numbers = np.arange(1, classes + 1)
    colours = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mix an image u8 [H, W, 3] with the colours of its pixels' classes, u8 [H, W]; IGNORED pixels stay."""
    mixed = (1 - SHARE) * image + SHARE * palette(256)[classes]
    return np.where((classes == IGNORED)[..., None], image, mixed.round()).astype(np.uint8)


def index_png(classes: np.ndarray) -> bytes:
    """Save classes u8 [H, W] as a PNG whose values are the classes' numbers, shown in their colours."""
    image = Image.fromarray(classes.astype(np.uint8))
    image.putpalette(palette(256).tobytes())
    return png(image)


def png(image: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()
