"""Check an image's width and height before memory is taken for it or compiled code is given it.

width, height = checked_size(640, 480)
checked_size(0, 480)                        # InputError: 0 x 480 pixels, expected ...
possible(np.array([0]), np.array([480]))    # [False]
"""

from typing import Any

from pipeline.errors import InputError

MAX_SIDE = 65_500  # libjpeg's own limit; the .beton's u16 sides end just above
MAX_PIXELS = 89_478_485  # from here on Pillow warns of a decompression bomb


def possible(width: Any, height: Any, max_pixels: int = MAX_SIDE**2) -> Any:
    """Whether an image can have this size in pixels: bool of two ints, bool [N] of i64 [N] each."""
    sides = (width > 0) & (width <= MAX_SIDE) & (height > 0) & (height <= MAX_SIDE)
    return sides & (width * height <= max_pixels)


def checked_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) in pixels. Raises InputError if a side is 0 or too long, or the image too large."""
    width, height = int(width), int(height)
    if not possible(width, height, max_pixels):
        raise InputError(
            f"{width} x {height} pixels, expected sides of 1 to {MAX_SIDE} pixels and at most {max_pixels} in all"
            + ("; --max-pixels takes more" if width * height > max_pixels else "")
        )
    return width, height
