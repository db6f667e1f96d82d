"""Progressive resolution: the size of a run's images as a pure function of the step.

DailyMAE (Wu et al. 2024) trains MAE this way; its code (FastSSL, util/dres.py) goes 160, 192, 224 pixels.

    size_at(step=0, total_steps=300, data=Data(sizes=(160, 192, 224)))     # 160
    size_at(step=0, total_steps=300, data=Data(size=(224, 112), sizes=(160, 192, 224)))     # (160, 80)
"""

from math import gcd

from pipeline.errors import InputError
from pipeline.spec import Data, Size, both_sides, spelt


def size_at(step: int, total_steps: int, data: Data) -> Size:
    """Return the size of the images in a step, counted from 0: each of `data.sizes` has an equal share of the steps,
    and the last one all steps after them."""
    if not data.sizes:
        return data.size
    return _size(data.sizes[min(step * len(data.sizes) // total_steps, len(data.sizes) - 1)], data)


def distinct_sizes(data: Data) -> list[Size]:
    """List every size that a run's images have, the largest first."""
    smaller = sorted(set(data.sizes or ()), reverse=True)
    return [data.size, *(size for size in (_size(height, data) for height in smaller) if size != data.size)]


def check_sizes(data: Data, patch: int) -> None:
    """Raise InputError unless the sizes are multiples of `patch` that never fall and end at `data.size`."""
    sizes, (height, width) = data.sizes or (), both_sides(data.size)
    unit = patch * height // gcd(height, width)  # the least height at which both sides are multiples
    for size in sizes:
        if size < patch or size % patch:
            near = max(patch, round(size / patch) * patch)
            raise InputError(f"data.sizes holds {size}, which patches of {patch} pixels do not divide; use {near}")
        if size * width % (height * patch):
            near = max(unit, round(size / unit) * unit)
            raise InputError(
                f"data.sizes holds {size}; in the proportion of data.size {spelt(data.size)} that is "
                f"{size} x {size * width / height:g}, which patches of {patch} pixels do not divide; use {near}"
            )
    if sizes and (list(sizes) != sorted(sizes) or sizes[-1] != height):
        came = " ".join(map(str, sizes))
        end = f"{height}, the height of data.size {spelt(data.size)}" if height != width else f"data.size {height}"
        raise InputError(f"data.sizes may not fall and must end at {end}, got {came}")


def growth(total_steps: int, data: Data) -> str | None:
    """Describe in a line how the images grow; None where they do not."""
    firsts: dict[Size, int] = {}
    sizes = data.sizes or ()
    for i, size in enumerate(sizes):
        firsts.setdefault(_size(size, data), -(-i * total_steps // len(sizes)))
    if len(firsts) < 2:
        return None
    return "images of " + ", ".join(f"{spelt(size)} pixels from step {step:,}" for size, step in firsts.items())


def _size(height: int, data: Data) -> Size:
    """Complete one of `data.sizes` to a size in the proportion of `data.size`."""
    if not isinstance(data.size, tuple):
        return height
    return height, height * data.size[1] // data.size[0]  # whole, as check_sizes says
