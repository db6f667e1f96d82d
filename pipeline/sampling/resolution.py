"""Progressive resolution: the side of a run's images as a pure function of the step.

DailyMAE (Wu et al. 2024) trains MAE this way; its code (FastSSL, util/dres.py) goes 160, 192, 224 pixels.

    size_at(step=0, total_steps=300, data=Data(sizes=(160, 192, 224)))     # 160
"""

from pipeline.errors import InputError
from pipeline.spec import Data


def size_at(step: int, total_steps: int, data: Data) -> int:
    """Return the side of the images in a step, counted from 0: each of `data.sizes` has an equal share of the steps, and
    the last one all steps after them."""
    if not data.sizes:
        return data.size
    return data.sizes[min(step * len(data.sizes) // total_steps, len(data.sizes) - 1)]


def distinct_sizes(data: Data) -> list[int]:
    """List every side that a run's images have, the largest first."""
    return sorted({data.size, *(data.sizes or ())}, reverse=True)


def check_sizes(data: Data, patch: int) -> None:
    """Raise InputError unless the sizes are multiples of `patch` that never fall and end at `data.size`."""
    sizes = data.sizes or ()
    for size in sizes:
        if size < patch or size % patch:
            near = max(patch, round(size / patch) * patch)
            raise InputError(f"data.sizes holds {size}, which patches of {patch} pixels do not divide; use {near}")
    if sizes and (list(sizes) != sorted(sizes) or sizes[-1] != data.size):
        came = " ".join(map(str, sizes))
        raise InputError(f"data.sizes may not fall and must end at data.size {data.size}, got {came}")


def growth(total_steps: int, data: Data) -> str | None:
    """Describe in a line how the images grow; None where they do not."""
    firsts: dict[int, int] = {}
    sizes = data.sizes or ()
    for i, size in enumerate(sizes):
        firsts.setdefault(size, -(-i * total_steps // len(sizes)))
    if len(firsts) < 2:
        return None
    return "images of " + ", ".join(f"{size} pixels from step {step:,}" for size, step in firsts.items())
