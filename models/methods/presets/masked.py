"""Masks of SimMIM and LoMaR, for their recipes and for the masked branch of others, each number with its origin."""

from dataclasses import replace

from models.config.recipe import Encoder
from pipeline.spec import Data, Mask


def simmim_mask() -> Mask:
    """30 of the 49 units of 32 pixels at 224: 120 of 196 patches."""
    return Mask("unit", ratio=0.6, unit=2)  # SimMIM code


def lomar_mask() -> Mask:
    """39 of the 49 patches of each of 4 windows."""
    return Mask("window", ratio=0.8, window=7, windows=4)  # LoMaR code


def digits_units() -> Mask:
    """2 of the 4 units of a 4 x 4 grid. Ours."""
    return Mask("unit", ratio=0.5, unit=2)


def digits_windows() -> Mask:
    """5 of the 9 patches of each of 2 windows on a 4 x 4 grid. Ours."""
    return Mask("window", ratio=0.6, window=3, windows=2)


def with_mask(data: Data, mask: Mask) -> Data:
    """Replace the mask of the data."""
    return replace(data, mask=mask)


def with_irpe(encoder: Encoder) -> Encoder:
    """Replace the encoder's absolute positions by LoMaR's relative ones."""
    return replace(encoder, position="irpe")
