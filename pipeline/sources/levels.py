"""Bring pixels of more than 8 bits to 8: by what is black and what is white.

grey, span = to_eight_bits(scan, window=(0, 4095))     # u16 [H, W] -> u8 [H, W], (lowest, highest) of the scan
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.store.manifest import Manifest, read_manifest

Window = tuple[float, float] | Literal["auto"]
WHITE = 65_535  # of 16 bits
EIGHTH = (WHITE + 1) / 8


def stored_window(beton: Path) -> Window | None:
    """The window with which a .beton was made; None without one. Raises InputError if its manifest cannot be read."""
    return window_of(read_manifest(beton))


def window_of(manifest: Manifest) -> Window | None:
    """The window with which the .beton of a manifest was made; None without one."""
    found = manifest.arguments.get("window")
    return tuple(found) if isinstance(found, list | tuple) else found


def check_same_window(path: Path, manifest: Manifest, learned: Window | None, whose: str) -> None:
    """Raise InputError if a .beton's pixels of more than 8 bits were made with another window than what was learned.

    check_same_window(val.path, val.manifest, window_of(train.manifest), str(train.path))
    """
    window = window_of(manifest)
    if window != learned and (manifest.deep is not None or None not in (window, learned)):
        its, wanted = (f"with {as_flag(each)}" if each else "without --window" for each in (window, learned))
        raise InputError(
            f"{path} was converted {its}, {whose} {wanted}: the same pixels have other values in both; convert it "
            f"again {wanted}"
        )


def as_flag(window: Window) -> str:
    """How a window is written on a command line."""
    return f"--window {window}" if window == "auto" else f"--window {window[0]:g} {window[1]:g}"


class Span(NamedTuple):
    """The lowest and highest value of an image that has 16 bits a pixel and colour."""

    low: int
    high: int

    @property
    def narrow(self) -> bool:
        """Whether the values take up less than an eighth of what 16 bits hold, as those of 12-bit data do."""
        return self.high - self.low + 1 < EIGHTH


def check_window(window: Window | None) -> None:
    """Raise InputError for a window without a width."""
    if isinstance(window, tuple) and not (np.isfinite(window).all() and window[0] < window[1]):
        raise InputError(f"--window: expected two numbers, the lower first, or auto; got {window[0]:g} {window[1]:g}")


def to_eight_bits(values: np.ndarray, window: Window | None) -> tuple[np.ndarray, Span | None]:
    """Values of more than 8 bits, [H, W] or [H, W, C], -> u8 of the same shape, and what values there are.

    window   values from which on all is black, and white; "auto": the image's own lowest and highest. None is 0 to
             65535 for 16 bits, and no other kind of number then says what is white.

    A fourth channel is opacity, and 65535 is opaque. The span is None where the source has other than 16 bits.
    Raises InputError for values that are not finite, and for those without a white.
    """
    colours = values[:, :, :3] if values.ndim == 3 else values
    low, high = colours.min(), colours.max()
    if not np.isfinite([low, high]).all():
        raise InputError("expected numbers as pixels, got nan or infinite ones")
    deep = np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= WHITE
    if window is None and not deep:
        raise InputError(f"{values.dtype} pixels have no agreed white; store 8 or 16 bits, or set it with --window")
    black, white = (low, high) if window == "auto" else window or (0, WHITE)
    grey = _scaled(colours, float(black), float(white))
    if values.ndim == 3 and values.shape[2] == 4:
        grey = np.concatenate([grey, _scaled(values[:, :, 3:], 0.0, WHITE)], axis=2)
    return grey, Span(int(low), int(high)) if deep else None


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    exact = np.float32 if values.dtype == np.uint16 else np.float64
    shares = (values.astype(exact) - exact(black)) * exact(255 / ((white - black) or 1.0))
    return np.rint(np.clip(shares, 0, 255)).astype(np.uint8)
