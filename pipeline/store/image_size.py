"""Check an image's height and width before memory is taken for it or compiled code is given it.

check_size(480, 640)
check_size(480, 0)                       # InputError: 0 x 480 pixels, expected ...
possible(np.array([480]), np.array([0])) # [False]
"""

from typing import Any

from pipeline.errors import InputError

MAX_SIDE = 65_500  # libjpeg's own limit; the .beton's u16 sides end just above


def possible(height: Any, width: Any, max_pixels: int = MAX_SIDE**2) -> Any:
    """Whether an image can have this size in pixels: bool of two ints, bool [N] of i64 [N] each."""
    sides = (height > 0) & (height <= MAX_SIDE) & (width > 0) & (width <= MAX_SIDE)
    return sides & (height * width <= max_pixels)


def check_size(height: int, width: int, max_pixels: int = MAX_SIDE**2) -> None:
    """Raise InputError if a side is 0 or too long, or the image has more than `max_pixels` pixels."""
    if not possible(int(height), int(width), max_pixels):
        many = " (--max-pixels)" if height * width > max_pixels else ""
        raise InputError(
            f"{width} x {height} pixels, expected sides of 1 to {MAX_SIDE} and at most {max_pixels} in all{many}"
        )
